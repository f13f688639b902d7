"""Networks the learners share: an MLP, an actor over an encoder, twin critics as one batched matmul, a state's value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recrl.core.contracts import Observation
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import Encoder


def initialise(module: nn.Module, seed: int) -> None:
    """Fill every parameter from the INITIALISATION stream: weights U(-1/sqrt(fan_in), 1/sqrt(fan_in)), biases 0, gains of norms 1.

    Equal seeds give equal networks whatever ran before; no global generator is touched.
    """
    streams = TensorStreams(seed)
    with torch.no_grad():
        for k, (name, parameter) in enumerate(module.named_parameters()):
            last = name.rpartition(".")[2]  # the biases of a GRU are bias_ih_l0 and so on
            if last.startswith("bias") or parameter.ndim == 1:
                parameter.fill_(0.0 if last.startswith("bias") else 1.0)
                continue
            # layers of an ensemble lie as (E, in, out), all others as (out, in)
            bound = 1.0 / math.sqrt(parameter.shape[-2 if parameter.ndim == 3 else -1])
            rows = torch.arange(parameter.numel() // parameter.shape[-1])
            draws = streams.uniform(rows, k, Purpose.INITIALISATION, (parameter.shape[-1],))
            parameter.copy_((2.0 * draws - 1.0).reshape(parameter.shape) * bound)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them; the last one is linear."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def draw_ids(observation: Observation, device: torch.device) -> Tensor:
    """Keys of the random draws of a batch, (B,) int64: the users, or the row numbers of a task without users."""
    return torch.arange(len(observation), device=device) if observation.user is None else observation.user


class Actor(nn.Module):
    """Encoder -> MLP -> tanh, scaled to the action bounds: Observation (B) -> (B, d)."""

    def __init__(self, encoder: Encoder, hidden: Sequence[int], action_size: int, low: float, high: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.body = mlp([encoder.width, *hidden, action_size])
        self.centre, self.half_range = (high + low) / 2.0, (high - low) / 2.0

    def forward(self, observation: Observation) -> Tensor:
        """Deterministic actions."""
        return self.head(self.encoder(observation))

    def head(self, state: Tensor) -> Tensor:
        """Actions of encoded states (B, width)."""
        out: Tensor = self.centre + self.half_range * torch.tanh(self.body(state))
        return out


class EnsembleLinear(nn.Module):
    """``members`` linear layers in one batched matmul: (E, B, in) -> (E, B, out); (B, in) -> (B, out) through one of them alone."""

    def __init__(self, members: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        # (in, out): the gradient of a batched matmul comes in this layout, any other would be copied
        self.weight = nn.Parameter(torch.empty(members, fan_in, fan_out))
        self.bias = nn.Parameter(torch.zeros(members, 1, fan_out))

    def forward(self, x: Tensor, member: int = 0) -> Tensor:
        """Apply member ``e`` to slice ``e``, or ``member`` to all."""
        return torch.addmm(self.bias[member], x, self.weight[member]) if x.ndim == 2 else torch.baddbmm(self.bias, x, self.weight)


class Critics(nn.Module):
    """``members`` independent action values in one pass: state (B, width), action (B, d) -> (E, B)."""

    def __init__(self, width: int, action_size: int, hidden: Sequence[int], members: int = 2) -> None:
        super().__init__()
        self.members = members
        sizes = [width + action_size, *hidden]
        self.layers = nn.ModuleList(EnsembleLinear(members, i, o) for i, o in itertools.pairwise(sizes))
        self.last = EnsembleLinear(members, sizes[-1], 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Values of all members."""
        x = torch.cat([state, action], dim=1).expand(self.members, -1, -1)
        for layer in self.layers:
            x = torch.relu_(layer(x))
        # inner products: much faster than a matmul with one column
        return torch.linalg.vecdot(x, self.last.weight.mT) + self.last.bias.squeeze(-1)

    def each(self, state: Tensor, actions: Tensor) -> Tensor:
        """Values of several actions a state: (B, width), (B, n, d) -> (E, B, n). What the first layer makes of a state is computed once."""
        first, last = self.layers[0], self.last
        assert isinstance(first, EnsembleLinear)
        of_state, of_action = first.weight.split([state.shape[1], actions.shape[2]], dim=1)
        flat = torch.matmul(actions.flatten(0, 1), of_action).unflatten(1, actions.shape[:2])  # (E, B, n, hidden)
        x = torch.relu_(flat + (torch.matmul(state, of_state) + first.bias).unsqueeze(2)).flatten(1, 2)
        for layer in self.layers[1:]:
            x = torch.relu_(layer(x))
        return (torch.linalg.vecdot(x, last.weight.mT) + last.bias.squeeze(-1)).unflatten(1, actions.shape[:2])

    def first(self, state: Tensor, action: Tensor) -> Tensor:
        """Values of the first member alone, (B,)."""
        return self.one(0, state, action)

    def one(self, member: int, state: Tensor, action: Tensor) -> Tensor:
        """Values of one member alone, (B,)."""
        x = torch.cat([state, action], dim=1)
        for layer in self.layers:
            x = torch.relu_(layer(x, member))
        value: Tensor = self.last(x, member).squeeze(-1)
        return value


class StateValue(nn.Module):
    """The value of a state: (B, width) -> (B,)."""

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.critics = Critics(width, 0, hidden, members=1)

    def forward(self, state: Tensor) -> Tensor:
        """Values."""
        value: Tensor = self.critics(state, state[:, :0]).squeeze(0)
        return value


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """``target <- (1 - tau) target + tau online`` over all parameters in one fused call."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
