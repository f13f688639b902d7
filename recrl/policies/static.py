"""The same vector for everybody: a vector policy whose last layer has a bias alone.

So it is saved, loaded and tried in A/B tests like any other.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recrl.core.contracts import ActionSpec
from recrl.core.errors import ConfigError
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig, VectorPolicy

_EDGE = 1.0 - 1e-6


def static_policy(
    action_spec: ActionSpec,
    value: Tensor,
    item_vectors: Tensor | None = None,
    config: ActorConfig = ActorConfig(EncoderConfig(history=1)),  # noqa: B008 - frozen
) -> VectorPolicy:
    """A policy that takes ``value`` (d,) whatever it sees, with the Gaussian of ``config.exploration`` around it.

    Args:
        action_spec: of a vector.
        value: inside the bounds; a bound itself is met up to a millionth of the range.
        item_vectors: (n_items, d), which tie a policy over items to its catalogue; without them give a ``flat`` encoder.
        config: encoder (it is asked and not heard) and spread.

    **Errors**: :class:`ConfigError` for another shape, or components outside the bounds.

    >>> import torch
    >>> from recrl.core.contracts import Observation
    >>> policy = static_policy(ActionSpec("fusion_weights", (7,)), torch.linspace(-1, 1, 7), torch.zeros(5, 2))
    >>> seen = Observation(user=torch.arange(2), history_items=torch.zeros(2, 1, dtype=torch.int64),
    ...                    history_feedback=torch.zeros(2, 1, dtype=torch.uint8), clock=torch.zeros(2, 4))
    >>> policy.act(seen, None, deterministic=True).value[1].tolist()[2:5]
    [-0.3333333432674408, 0.0, 0.3333333432674408]
    """
    value = torch.as_tensor(value, dtype=torch.float32)
    if tuple(value.shape) != action_spec.shape:
        raise ConfigError(f"a vector of shape {tuple(value.shape)}", where="static_policy.value", mend=f"give {action_spec.shape}")
    if not bool(((value >= action_spec.low) & (value <= action_spec.high)).all()):
        raise ConfigError(
            f"{value.tolist()} leaves the bounds", where="static_policy.value", mend=f"stay in [{action_spec.low}, {action_spec.high}]"
        )
    policy = VectorPolicy(action_spec, replace(config, hidden=()), item_vectors)
    actor = policy.actor
    last = actor.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(((value - actor.centre) / actor.half_range).clamp(-_EDGE, _EDGE).double().atanh().float())
    return policy
