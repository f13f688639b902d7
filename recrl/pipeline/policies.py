"""Policies by what a user calls them: ``random``, ``popularity``, a saved policy, or a run that holds some."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from recrl.core.errors import ConfigError
from recrl.pipeline.setting import Setting
from recrl.policies import load_policy
from recrl.policies.gaussian import AnyVectorPolicy
from recrl.policies.items import ItemPolicy, item_spec, popularity_policy, random_policy

BASELINES = ("random", "popularity")


def baseline(name: str, setting: Setting) -> ItemPolicy:
    """``random`` or ``popularity`` over the items of the log."""
    spec = item_spec(setting.log.n_items)
    return random_policy(spec) if name == "random" else popularity_policy(setting.log_counts.expm1(), spec)


def named_policies(names: Sequence[Path | str], setting: Setting, *, runs: Path) -> dict[str, ItemPolicy | AnyVectorPolicy]:
    """The policies that ``names`` stand for, by their names.

    **Errors**: :class:`ConfigError` for a name that is none of these, a policy of a control task, or another catalogue.
    """
    found: dict[str, ItemPolicy | AnyVectorPolicy] = {}
    folders = [folder for name in names if str(name) not in BASELINES for folder in _folders(Path(name), runs)]
    taken = {folder.name for folder in folders if sum(folder.name == other.name for other in folders) > 1}
    for name in names:
        if str(name) in BASELINES:
            found[str(name)] = baseline(str(name), setting)
            continue
        for folder in _folders(Path(name), runs):
            policy = load_policy(folder)
            if not _fits(policy, setting):
                raise ConfigError(
                    f"policy {folder.name!r} does not rank the {setting.log.n_items} items of this log",
                    where=str(folder),
                    mend="give a policy that was trained on the same data",
                )
            if folder.name in taken:
                # two runs hold a policy of this name: the run tells them apart
                found[f"{folder.parents[2].name}/{folder.name}"] = policy
            else:
                found[folder.name] = policy
    return found


def over_items(policies: Mapping[str, ItemPolicy | AnyVectorPolicy]) -> dict[str, ItemPolicy]:
    """The same policies, all of which give items their probabilities.

    **Errors**: :class:`ConfigError` for one that does not.
    """
    for name, policy in policies.items():
        if not isinstance(policy, ItemPolicy):
            raise ConfigError(
                f"policy {name!r} decides {policy.action_spec.kind}, which gives no probability of an item",
                where="policy",
                mend=f"compare it with others in the simulator: recrl ab popularity {name}",
            )
    return {name: policy for name, policy in policies.items() if isinstance(policy, ItemPolicy)}


def _fits(policy: object, setting: Setting) -> TypeGuard[ItemPolicy | AnyVectorPolicy]:
    if isinstance(policy, ItemPolicy):
        return policy.scores.items == setting.log.n_items
    if not isinstance(policy, AnyVectorPolicy) or policy.item_vectors is None:
        return False
    return policy.action_spec.kind in ("embedding", "fusion_weights") and len(policy.item_vectors) == setting.log.n_items


def history_of(policy: ItemPolicy | AnyVectorPolicy) -> int:
    """How many shown items a policy's state remembers, at least 1."""
    return max((int(getattr(module, "history", 1)) for module in policy.modules()), default=1)


def fingerprint(policy: ItemPolicy | AnyVectorPolicy) -> str:
    """A hash of a policy's parameters and tables: equal for equal policies, whatever their names."""
    digest = hashlib.sha256(str(policy.temperature if isinstance(policy, ItemPolicy) else policy.action_spec.kind).encode())
    for name, tensor in sorted(policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _folders(path: Path, runs: Path) -> list[Path]:
    for base in (path, runs / path):
        if (base / "policy.json").is_file():
            return [base]
        inside = sorted(p.parent for p in (base / "artifacts" / "policies").glob("*/policy.json"))
        if inside:
            return inside
    raise ConfigError(
        f"no policy {str(path)!r}", where="policy", mend=f"give {', '.join(BASELINES)}, a saved policy, or a run that holds policies"
    )
