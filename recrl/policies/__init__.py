"""State encoders, networks and the policies; :func:`load_policy` reads any saved one."""

from __future__ import annotations

from pathlib import Path

from recrl.core.contracts import Policy
from recrl.core.errors import CheckpointError
from recrl.policies.clipped import ClippedGaussianPolicy
from recrl.policies.discrete import DiscretePolicy
from recrl.policies.gaussian import GaussianPolicy
from recrl.policies.generated import GeneratedPolicy
from recrl.policies.guarded import GuardedPolicy
from recrl.policies.items import ItemPolicy
from recrl.policies.storage import read_policy
from recrl.policies.two_stage import TwoStagePolicy
from recrl.policies.vector import VectorPolicy

AnyPolicy = ItemPolicy | DiscretePolicy | VectorPolicy | GaussianPolicy
"""The policies that learners give."""

REGISTRY: dict[str, type[AnyPolicy]] = {
    policy.kind: policy
    for policy in (
        ItemPolicy,
        TwoStagePolicy,
        DiscretePolicy,
        VectorPolicy,
        ClippedGaussianPolicy,
        GeneratedPolicy,
        GuardedPolicy,
        GaussianPolicy,
    )
}
"""Policies by the ``kind`` in their ``policy.json``."""


def load_policy(folder: Path) -> Policy:
    """Load a policy that :meth:`Policy.save` wrote.

    **Errors**: ``StorageError`` for a missing folder, :class:`CheckpointError` for broken weights or an unknown kind.
    """
    config, tensors = read_policy(folder)
    if config.get("kind") not in REGISTRY:
        raise CheckpointError(f"unknown policy kind {config.get('kind')!r}", where=str(folder), mend=f"known kinds: {', '.join(REGISTRY)}")
    try:
        return REGISTRY[config["kind"]].load(config, tensors)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"the saved policy does not fit its configuration: {error}", where=str(folder), mend="train and save the policy again"
        ) from None
