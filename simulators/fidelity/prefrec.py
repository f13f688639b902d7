"""The small reference world for preference-based learning: one continuous action, an interior optimum, clicks against satisfaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import ActionSpec, Observation, Outcome
from recrl.core.errors import ConfigError, ContractError
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams

WIDTH, SLATE = 6, 6
REWARDS = ("click", "long_view", "like", "return")
"""Columns of ``Outcome.reward``: rates over the slate, and minus the return gap in days."""
MAX_GAP, _LONGEST, _FEEDBACK_DECAY = 10, 40, 0.7
_KINDS = [BEHAVIOURS.index(name) for name in REWARDS[:3]]


@dataclass(frozen=True)
class PrefRecConfig:
    """Options.

    Attributes:
        sessions: sessions of a user, after which it is truncated.
        seed: of the two maps from users to what suits them and to what they click.
        noise: standard deviation of the logging policy's noise.
    """

    sessions: int = 8
    seed: int = 0
    noise: float = 0.3

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise ConfigError(f"sessions is {self.sessions}", where="PrefRecConfig.sessions", mend="it must be at least 1")
        if self.noise < 0:
            raise ConfigError(f"noise is {self.noise}", where="PrefRecConfig.noise", mend="it must be at least 0")


@dataclass(frozen=True, eq=False)
class PrefRecState:
    """State of ``B`` users.

    **Shapes**: ``uid``, ``counter``, ``session``, ``requests`` (B,) int64; ``taste`` x (B, 6); ``satisfaction`` m (B,), hidden;
    ``rates`` (B, 3) running averages of click, long view and like; ``last_gap``, ``last_depth`` (B,); ``alive`` (B,) bool.
    """

    uid: Tensor
    counter: Tensor
    session: Tensor
    requests: Tensor
    taste: Tensor
    satisfaction: Tensor
    rates: Tensor
    last_gap: Tensor
    last_depth: Tensor
    alive: Tensor

    def __len__(self) -> int:
        return int(self.uid.shape[0])

    def map(self, function: Callable[[Tensor], Tensor]) -> PrefRecState:
        """Apply ``function`` to every tensor."""
        return PrefRecState(*(function(getattr(self, f.name)) for f in fields(self)))

    def __getitem__(self, index: Any) -> PrefRecState:
        """Rows of the batch."""
        return self.map(lambda x: x[index])

    def where(self, mask: Tensor, other: PrefRecState) -> PrefRecState:
        """Rows of ``self`` where ``mask`` (B,) is true, else rows of ``other``."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return PrefRecState(*(torch.where(mask if a.ndim == 1 else mask.unsqueeze(1), a, b) for a, b in pairs))

    @property
    def draw_step(self) -> Tensor:
        """A step for policies, (B,) int64."""
        return (self.uid << 24) + self.counter


class PrefRecWorld:
    """Users with a vector x ~ N(0, I_6), an action that suits them and another one that they click.

    With fixed maps M1, M2 (6 x 6, N(0, .36))::

        a* = .7 tanh(x M1),  a_click = .7 tanh(x M2),  d* = mean (a - a*)^2,  d_c = mean (a - a_click)^2
        click ~ Bin(6, s(1.5 - 5 d_c)) / 6,  long view ~ Bin(6, s(.3 + 1.2 (m - .5) - 1.5 d*)) / 6,  like ~ Bin(6, s(-1.5 + 2 (m - .5))) / 6
        m_0 = clip(.5 + .15 e),  m <- clip(m + .25 (.28 - d*) + .05 e, 0, 1),  leave ~ s(-1.6 - 4 (m - .5) + .02 requests) or requests >= 40
        on leaving: gap ~ min(Geom(clip(.1 + .7 m, .05, .95)), 10),  m <- .75 m + .125

    Feedback is drawn before m moves, leaving and the gap after it. Meets :class:`recrl.core.contracts.World`: six nameless things a
    request (``shown`` counts them), each clicked, viewed long and liked independently.

    Args:
        config: options.
        device: where everything lives.
    """

    def __init__(self, config: PrefRecConfig = PrefRecConfig(), *, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.action_spec = ActionSpec("continuous", (WIDTH,))
        maps = 0.6 * Streams(config.seed).normal([0, 1], 0, Purpose.INITIALISATION, (WIDTH, WIDTH))
        self.to_suit, self.to_click = torch.from_numpy(np.asarray(maps)).float().to(self.device)
        self._bits = torch.tensor([1 << k for k in _KINDS], device=self.device)

    def population(self, n: int, *, first: int = 0) -> Tensor:
        """Ids of ``n`` users, ``(n,)`` int64; their vectors are draws of the streams they live by."""
        return torch.arange(first, first + n, device=self.device)

    def initial_state(self, users: Any, streams: TensorStreams) -> PrefRecState:
        """Fresh users ``(B,)``."""
        uid = torch.as_tensor(users, device=self.device).to(torch.int64).reshape(-1)
        drawn = streams.normal(uid, 0, Purpose.USERS, (WIDTH + 1,))
        none, zero = torch.zeros_like(uid), torch.zeros(len(uid), device=self.device)
        return PrefRecState(
            uid=uid,
            counter=none,
            session=none,
            requests=none,
            taste=drawn[:, :WIDTH],
            satisfaction=(0.5 + 0.15 * drawn[:, WIDTH]).clamp(0.0, 1.0),
            rates=torch.zeros(len(uid), 3, device=self.device),
            last_gap=zero,
            last_depth=zero,
            alive=torch.ones(len(uid), dtype=torch.bool, device=self.device),
        )

    def suiting(self, taste: Tensor) -> Tensor:
        """a*, the action that satisfies: ``(B, 6)`` -> ``(B, 6)``."""
        return 0.7 * torch.tanh(taste @ self.to_suit)

    def clicked(self, taste: Tensor) -> Tensor:
        """a_click, the action that is clicked most: ``(B, 6)`` -> ``(B, 6)``."""
        return 0.7 * torch.tanh(taste @ self.to_click)

    def logging_mean(self, taste: Tensor) -> Tensor:
        """Mean of the logging policy, half click-bait: ``(B, 6)`` -> ``(B, 6)``."""
        return 0.5 * self.clicked(taste) + 0.15 * self.suiting(taste)

    def logged(self, state: PrefRecState, streams: TensorStreams) -> Tensor:
        """Actions of the logging policy, ``(B, 6)``: its mean and noise, clipped to -1..1."""
        noise = streams.normal(state.uid, state.counter, Purpose.EXPLORATION, (WIDTH,))
        return (self.logging_mean(state.taste) + self.config.noise * noise).clamp(-1.0, 1.0)

    def observe(self, state: PrefRecState) -> Observation:
        """Features (B, 14): x, three feedback averages, requests / 20, last gap / 10, last depth / 20, sessions / 10, 1."""
        counts = [state.requests / 20.0, state.last_gap / 10.0, state.last_depth / 20.0, state.session / 10.0]
        clock = torch.stack([*counts, torch.ones_like(state.last_gap)], dim=1)
        return Observation(features=torch.cat([state.taste, state.rates, clock], dim=1), user=state.uid)

    @torch.no_grad()
    def transition(self, state: PrefRecState, action: Any, streams: TensorStreams) -> tuple[PrefRecState, Outcome]:
        """One request for every live user; the others stay as they are and get zeros. The next session starts at once.

        **Errors**: :class:`ContractError` for an action of another shape.
        """
        s, alive = state, state.alive
        a = torch.as_tensor(action, device=self.device).detach().float()
        if tuple(a.shape) != (len(s), WIDTH):
            raise ContractError(
                f"action of shape {tuple(a.shape)} for {len(s)} users", where="PrefRecWorld.transition", mend=f"give ({len(s)}, {WIDTH})"
            )
        distance = (a - self.suiting(s.taste)).square().mean(1)
        bait = (a - self.clicked(s.taste)).square().mean(1)
        lift = s.satisfaction - 0.5
        p = torch.sigmoid(torch.stack([1.5 - 5.0 * bait, 0.3 + 1.2 * lift - 1.5 * distance, -1.5 + 2.0 * lift], dim=1))
        happened = streams.uniform(s.uid, s.counter, Purpose.RESPONSES, (SLATE, 3)) < p.unsqueeze(1)
        rates = happened.float().mean(1)
        noise = streams.normal(s.uid, s.counter + 1, Purpose.USERS)
        m = (s.satisfaction + 0.25 * (0.28 - distance) + 0.05 * noise).clamp(0.0, 1.0)
        made = s.requests + 1
        leave_hazard = torch.sigmoid(-1.6 - 4.0 * (m - 0.5) + 0.02 * made)
        ends = ((streams.uniform(s.uid, s.counter, Purpose.LEAVING) < leave_hazard) | (made >= _LONGEST)) & alive
        daily = (0.1 + 0.7 * m).clamp(0.05, 0.95)
        gap = self._gap(daily, streams.uniform(s.uid, s.counter, Purpose.RETURN))
        gap_days = torch.where(ends, gap, 0.0)
        session = s.session + ends
        over = ends & (session >= self.config.sessions)
        after = replace(
            s,
            counter=s.counter + 1,
            session=session,
            requests=torch.where(ends, 0, made),
            satisfaction=torch.where(ends, 0.75 * m + 0.125, m),
            rates=_FEEDBACK_DECAY * s.rates + (1.0 - _FEEDBACK_DECAY) * rates,
            last_gap=torch.where(ends, gap, s.last_gap),
            last_depth=torch.where(ends, made.float(), s.last_depth),
            alive=alive & ~over,
        ).where(alive, s)
        feedback = (happened * self._bits).sum(-1).to(torch.uint8)
        reward = torch.cat([rates, -gap_days.unsqueeze(1)], dim=1)
        live = alive.unsqueeze(1)
        return after, Outcome(
            reward=torch.where(live, reward, 0.0),
            terminated=torch.zeros_like(alive),
            truncated=over,
            session_end=ends,
            gap_days=gap_days,
            shown=torch.where(live, torch.arange(SLATE, device=self.device), -1),
            feedback=torch.where(live, feedback, 0),
            truth={"active": alive, "probabilities": p, "satisfaction": m, "leave_hazard": leave_hazard, "daily_return": daily},
        )

    def _gap(self, daily: Tensor, uniform: Tensor) -> Tensor:
        """Days until the first success of a coin a day, at most ten, by one draw: ``(B,)``, ``(B,)`` -> ``(B,)``."""
        later = (1.0 - daily).unsqueeze(1) ** torch.arange(1, MAX_GAP, device=self.device)
        return 1.0 + (uniform.unsqueeze(1) < later).sum(1)
