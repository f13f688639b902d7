"""What the published simulators have in common: users side by side who see slates, respond, and end sessions by running out of patience."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import ActionSpec, Observation, Outcome
from recrl.core.errors import ConfigError, ContractError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from simulators.fidelity.laws import drawn_day, slate_worth
from simulators.fidelity.users import StandInUsers

F = len(BEHAVIOURS)
RETURN_DAYS = 10
"""Longest gap: everyone returns by then, nobody churns."""


@dataclass(frozen=True)
class FidelityConfig:
    """Sizes that every published mode has.

    Attributes:
        slate_size: items of a request; the candidates are always the whole catalogue, seen items included.
        history: shown items that the observation holds.
        temper: patience at the start of a session, which ends when it falls below 1.
        sessions: sessions of a user, after which it is replaced (``truncated``).
        frozen_env_seed: seed of what the environment draws once for itself; ``None`` draws with each world's own seed, as published.
    """

    slate_size: int = 6
    history: int = 100
    temper: float = 20.0
    sessions: int = 1
    frozen_env_seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("slate_size", "history", "temper", "sessions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"{type(self).__name__}.{name}", mend="it must be at least 1")


@dataclass(frozen=True, eq=False)
class FidelityState:
    """State of ``B`` users.

    **Shapes**: ``uid``, ``user``, ``counter``, ``session``, ``requests`` and ``clock`` (environment steps since the start) (B,) int64;
    ``day``, ``gap``, ``temper``, ``satisfaction`` (B,) float32; ``memory`` (B, 128); ``history_items`` (B, H) int64, -1 where none;
    ``history_feedback`` (B, H) uint8; ``alive`` (B,) bool.
    """

    uid: Tensor
    user: Tensor
    counter: Tensor
    session: Tensor
    requests: Tensor
    clock: Tensor
    day: Tensor
    gap: Tensor
    temper: Tensor
    satisfaction: Tensor
    memory: Tensor
    history_items: Tensor
    history_feedback: Tensor
    alive: Tensor

    def __len__(self) -> int:
        return int(self.uid.shape[0])

    def map(self, function: Callable[[Tensor], Tensor]) -> FidelityState:
        """Apply ``function`` to every tensor."""
        return FidelityState(*(function(getattr(self, f.name)) for f in fields(self)))

    def __getitem__(self, index: Any) -> FidelityState:
        """Rows of the batch."""
        return self.map(lambda x: x[index])

    def where(self, mask: Tensor, other: FidelityState) -> FidelityState:
        """Rows of ``self`` where ``mask`` (B,) is true, else rows of ``other``."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return FidelityState(*(torch.where(mask if a.ndim == 1 else mask.unsqueeze(1), a, b) for a, b in pairs))

    @property
    def draw_step(self) -> Tensor:
        """A step for policies, (B,) int64."""
        return (self.uid << 24) + self.counter


class FidelityWorld(ABC):
    """A published simulator as pure functions; meets :class:`recrl.core.contracts.World`.

    ``Outcome.reward`` (B, 2) holds the immediate reward and minus a tenth of the return gap.

    Args:
        config: sizes and switches.
        users: who responds; the published networks' weights are not to be had.
        seed: of what the environment draws for itself, unless frozen.
    """

    def __init__(self, config: FidelityConfig, users: StandInUsers, *, seed: int = 0) -> None:
        if config.slate_size > users.n_items:
            raise ConfigError(f"{users.n_items} items cannot fill a slate of {config.slate_size}", where="FidelityConfig.slate_size")
        self.config, self.users, self.device = config, users, users.device
        self.env_seed = seed if config.frozen_env_seed is None else config.frozen_env_seed
        self.action_spec = self._action_spec()
        self.reward_weights = torch.tensor(self.weights(), device=self.device)
        self._bits = (2 ** torch.arange(F)).to(self.device)

    def _action_spec(self) -> ActionSpec:
        return ActionSpec("fusion_weights", (F,))

    # ------------------------------------------------------------------ what the modes differ in

    @abstractmethod
    def probabilities(self, state: FidelityState, shown: Tensor, scores: Tensor) -> Tensor:
        """Of responses: shown items ``(B, K)``, scores ``(B, K, 7)`` -> ``(B, K, 7)``."""

    def cost(self, responses: Tensor) -> Tensor:
        """Patience that a request costs, from responses ``(B, K, 7)``: ``(B,)``; most modes count requests."""
        return torch.ones(len(responses), device=responses.device)

    def satisfied(self, satisfaction: Tensor, responses: Tensor, probabilities: Tensor) -> Tensor:
        """Running satisfaction after a request: ``(B,)``; most modes have none."""
        return satisfaction

    def return_days(self, after: FidelityState, responses: Tensor) -> Tensor | None:
        """P(day 1..10) were the session to end now: ``(B, 10)``; ``None`` where users do not return."""
        return None

    def weights(self) -> tuple[float, ...]:
        """Weights of the seven behaviours in the immediate reward."""
        return (1.0,) * (F - 1) + (-1.0,)

    # ------------------------------------------------------------------ the common loop

    def population(self, n: int, seed: int = 0) -> Tensor:
        """Ids of ``n`` simulated users, ``(n,)`` int64; ``id % n_users`` is the user."""
        number = torch.arange(n, device=self.device)
        return number * self.users.n_users + TensorStreams(seed, self.device).integers(self.users.n_users, number, 0, Purpose.USERS)

    def initial_state(self, users: Any, streams: TensorStreams, clock: int = 0) -> FidelityState:
        """Fresh users ``(B,)`` who arrive at environment step ``clock``."""
        uid = torch.as_tensor(users, device=self.device).to(torch.int64).reshape(-1)
        b, h, user = len(uid), self.config.history, uid % self.users.n_users
        none, zero = torch.zeros_like(uid), torch.zeros(b, device=self.device)
        return FidelityState(
            uid=uid,
            user=user,
            counter=none,
            session=none,
            requests=none,
            clock=none + clock,
            day=zero,
            gap=zero,
            temper=zero + self.config.temper,
            satisfaction=zero,
            memory=self.users.fresh_memory(user),
            history_items=torch.full((b, h), -1, dtype=torch.int64, device=self.device),
            history_feedback=torch.zeros(b, h, dtype=torch.uint8, device=self.device),
            alive=torch.ones(b, dtype=torch.bool, device=self.device),
        )

    @torch.no_grad()
    def observe(self, state: FidelityState) -> Observation:
        """The user's state as features (B, 192), history and clock."""
        counts = torch.log1p(state.session.float())
        return Observation(
            features=self.users.state(state.user, state.memory),
            user=state.user,
            history_items=state.history_items,
            history_feedback=state.history_feedback,
            clock=torch.stack([torch.log1p(state.gap), state.requests.float(), counts, torch.zeros_like(state.day)], dim=1),
        )

    @torch.no_grad()
    def transition(self, state: FidelityState, action: Any, streams: TensorStreams) -> tuple[FidelityState, Outcome]:
        """One request for every live user; the others stay as they are and get zeros.

        **Errors**: :class:`ContractError` for an action of another shape or of unknown items.
        """
        s, alive = state, state.alive
        mind = self.users.state(s.user, s.memory)
        shown = self._slates(mind, self._checked(action, len(s)))
        p = self.probabilities(s, shown, self.users.scores(mind, shown))
        responses = (streams.uniform(s.uid, s.counter, Purpose.RESPONSES, p.shape[1:]) < p).float()
        feedback = (responses.to(torch.int64) * self._bits).sum(-1).to(torch.uint8)
        temper = s.temper - self.cost(responses)
        ends = (temper < 1.0) & alive
        lived = replace(
            s,
            counter=s.counter + 1,
            requests=s.requests + 1,
            clock=s.clock + 1,
            temper=temper,
            satisfaction=self.satisfied(s.satisfaction, responses, p),
            memory=self.users.remembered(s.memory, shown, responses),
            history_items=torch.cat([s.history_items, shown], dim=1)[:, -self.config.history :],
            history_feedback=torch.cat([s.history_feedback, feedback], dim=1)[:, -self.config.history :],
        )
        days = self.return_days(lived, responses)
        session = s.session + ends
        # users who do not return are gone when their session ends
        gone = ends if days is None else torch.zeros_like(ends)
        replaced = ends & (session >= self.config.sessions) & ~gone
        drawn = torch.zeros_like(s.day) if days is None else drawn_day(days, streams.uniform(s.uid, s.counter, Purpose.RETURN))
        gap = torch.where(ends, drawn, 0.0)
        after = replace(
            lived,
            session=session,
            requests=torch.where(ends, 0, lived.requests),
            day=s.day + gap,
            gap=torch.where(ends, gap, s.gap),
            temper=torch.where(ends, self.config.temper, temper),
            alive=alive & ~gone & ~replaced,
        ).where(alive, s)
        reward = torch.stack([slate_worth(responses, self.reward_weights), -gap / RETURN_DAYS], dim=1)
        return after, Outcome(
            reward=torch.where(alive.unsqueeze(1), reward, 0.0),
            terminated=gone,
            truncated=replaced,
            session_end=ends,
            gap_days=gap,
            shown=torch.where(alive.unsqueeze(1), shown, -1),
            feedback=torch.where(alive.unsqueeze(1), feedback, 0),
            truth={"active": alive, "probabilities": p} | ({} if days is None else {"return_days": days}),
        )

    def _checked(self, action: Any, batch: int) -> Tensor:
        value = torch.as_tensor(action, device=self.device).detach()
        if tuple(value.shape) != (batch, *self.action_spec.shape):
            raise ContractError(
                f"action of shape {tuple(value.shape)} for {batch} users",
                where=f"{type(self).__name__}.transition",
                mend=f"give ({batch}, {self.action_spec.shape[0]})",
            )
        if self.action_spec.is_vector:
            return value.float()
        inside = self.device.type != "cpu" or not batch or bool(((value >= 0) & (value < self.users.n_items)).all())
        if value.is_floating_point() or not inside:
            raise ContractError(
                f"a slate needs item indices in 0..{self.users.n_items - 1}",
                where=f"{type(self).__name__}.transition",
                mend="choose from them",
            )
        return value.to(torch.int64)

    def _slates(self, mind: Tensor, value: Tensor) -> Tensor:
        """Items themselves, or the best ``sum_f a_f sigmoid(score_f)`` of the catalogue."""
        if not self.action_spec.is_vector:
            return value
        fused = (torch.sigmoid(self.users.scores(mind)) * value.unsqueeze(1)).sum(-1)
        return fused.topk(self.config.slate_size, dim=1).indices
