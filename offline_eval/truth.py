"""Small worlds whose values are known exactly, and logs drawn from them: what estimators and intervals are held against.

:class:`Bandit` has contexts, actions and kinds of users; :class:`RetentionProcess` has users who are more or less satisfied, end
sessions, come back some days later or never. Values are sums over all cells or the solution of a linear system; for short horizons
every path can be listed with its probability.

Policies are tables of probabilities, ``(contexts, actions)`` or ``(states, actions)``. Draws follow :mod:`recrl.core.streams`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_eval.censoring import RetentionLog
from offline_eval.direct import TargetActions
from offline_eval.trajectories import step_discounts
from recrl.core.contracts import LoggedFeedback
from recrl.core.errors import ConfigError
from recrl.core.objective import Signal
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose, Streams

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Bandit:
    """One decision a row. A user is of a hidden kind for all its rows, so that rows of one user depend on each other.

    **Shapes**: ``kind`` (Z,) chance of each kind; ``context`` (Z, X) chance of each context for a user of a kind; ``reward`` (Z, X,
    A) chance of reward 1.
    """

    kind: Float64
    context: Float64
    reward: Float64

    @classmethod
    def random(cls, seed: int, rate: float = 0.5, kinds: int = 4, contexts: int = 4, actions: int = 5, spread: float = 1.0) -> Bandit:
        """A bandit with mean rewards around ``rate``; ``spread`` is the deviation of their log-odds, between kinds and within."""
        streams = Streams(seed)
        odds = streams.normal([0], 0, Purpose.RESPONSES, (kinds, contexts, actions))[0]
        odds = odds + streams.normal([0], 1, Purpose.RESPONSES, (kinds, 1, 1))[0]
        seen = np.exp(streams.normal([1], 0, Purpose.RESPONSES, (kinds, contexts))[0])
        return cls(np.full(kinds, 1 / kinds), seen / seen.sum(axis=1, keepdims=True), _sigmoid(np.log(rate / (1 - rate)) + spread * odds))

    def value(self, policy: Float64) -> float:
        """Mean reward under ``policy`` (X, A), exact."""
        return float(np.einsum("z,zx,xa,zxa->", self.kind, self.context, policy, self.reward))

    def draw(self, logger: Float64, users: int, rows: int, seed: int) -> BanditLog:
        """``rows`` rows of each of ``users`` users."""
        streams, lanes = Streams(seed), np.arange(users)
        kind = _choose(self.kind[None], streams.uniform(lanes, 0, Purpose.USERS))
        user = np.repeat(lanes, rows)
        context = _choose(self.context[kind[user]], streams.uniform(lanes, 0, Purpose.CANDIDATES, (rows,)).ravel())
        action = _choose(logger[context], streams.uniform(lanes, 0, Purpose.EXPLORATION, (rows,)).ravel())
        happened = streams.uniform(lanes, 0, Purpose.RESPONSES, (rows,)).ravel() < self.reward[kind[user], context, action]
        return BanditLog(user, context, action, happened.astype(np.float64), logger)


@dataclass(frozen=True, eq=False)
class BanditLog:
    """Rows drawn from a :class:`Bandit`: ``user``, ``context``, ``action``, ``reward`` (n,), and the logger's table."""

    user: Int64
    context: Int64
    action: Int64
    reward: Float64
    logger: Float64

    def feedback(self, target: Float64) -> LoggedFeedback:
        """What estimators see of it for the policy ``target`` (X, A)."""
        cell = (self.context, self.action)
        return LoggedFeedback(self.reward, _log(target[cell]), _log(self.logger[cell]), self.user)

    def features(self, target: Float64) -> tuple[Float64, TargetActions]:
        """One column for each pair of context and action, of the logged rows and of the target policy's actions."""
        return _one_hot(self.context, self.action, target)


@dataclass(frozen=True, eq=False)
class RetentionProcess:
    """A user is in one of ``S`` states of satisfaction. Each request earns a reward and moves the state; then the session may end.

    After a session the user returns on day 1..K by the hazards of the state, in a state of rest, or never.

    **Shapes**: ``start`` (S,); ``reward`` (S, A) chance of reward 1; ``move`` (S, A, S); ``end`` (S, A) chance that the session
    ends after the request; ``hazard`` (S, K) chance to return on day k given not before, by the state at the end; ``rest`` (S, S)
    state at the return.
    """

    start: Float64
    reward: Float64
    move: Float64
    end: Float64
    hazard: Float64
    rest: Float64

    @classmethod
    def random(cls, seed: int, states: int = 3, actions: int = 3, days: int = 7) -> RetentionProcess:
        """A process in which satisfied users (higher states) earn more, stay longer and come back sooner."""
        streams = Streams(seed)
        noise = lambda k, *shape: streams.normal([k], 0, Purpose.RESPONSES, shape)[0]  # noqa: E731
        level = np.linspace(-1.0, 1.0, states)
        move = np.exp(2.0 * noise(1, states, actions, states) - np.abs(np.subtract.outer(level, level))[:, None, :])
        rest = np.exp(-2.0 * np.abs(np.subtract.outer(level, level)))
        daily = np.linspace(0.2, -0.8, days)
        return cls(
            start=np.full(states, 1 / states),
            reward=_sigmoid(level[:, None] + noise(0, states, actions)),
            move=move / move.sum(axis=2, keepdims=True),
            end=_sigmoid(-1.2 - 0.5 * level[:, None] + 0.5 * noise(2, states, actions)),
            hazard=_sigmoid(daily + level[:, None]),
            rest=rest / rest.sum(axis=1, keepdims=True),
        )

    @property
    def returns(self) -> Float64:
        """Chance to return within the last day of the hazards, by the state at the session's end, (S,)."""
        back: Float64 = 1.0 - np.prod(1.0 - self.hazard, axis=1)
        return back

    def values(self, policy: Float64, signal: Signal, horizon: int | None = None) -> tuple[Float64, Float64]:
        """Action values ``(S, A)`` and state values ``(S,)`` of the discounted rewards, exact.

        Without ``horizon`` for ever, by linear algebra; else of the next ``horizon`` requests, by backward induction.

        **Errors**: :class:`ConfigError` where the value over an endless horizon is infinite.
        """
        back = np.einsum("sau,u,ut->sat", self.move, self.returns, self.rest)
        go_on = signal.discount_within * (1 - self.end)[..., None] * self.move
        flow = go_on + signal.discount_across * self.end[..., None] * back
        if horizon is None:
            through = np.einsum("sa,sat->st", policy, flow)
            if not float(np.abs(np.linalg.eigvals(through)).max()) < 1 - 1e-12:
                raise ConfigError("the value of users who never leave is infinite", where="signal", mend="give a discount below 1")
            v = np.linalg.solve(np.eye(len(self.start)) - through, (policy * self.reward).sum(axis=1))
            return self.reward + flow @ v, v
        q, v = np.zeros_like(self.reward), np.zeros(len(self.start))
        for _ in range(horizon):
            q = self.reward + flow @ v
            v = (policy * q).sum(axis=1)
        return q, v

    def value(self, policy: Float64, signal: Signal, horizon: int | None = None) -> float:
        """Value from the start, exact."""
        return float(self.start @ self.values(policy, signal, horizon)[1])

    def retention(self, policy: Float64) -> Float64:
        """Chance to return within 1..K days after the first session, (K,), exact."""
        ends = np.einsum("sa,sa,sat->st", policy, self.end, self.move)
        stays = np.einsum("sa,sa,sat->st", policy, 1 - self.end, self.move)
        last = self.start @ np.linalg.solve(np.eye(len(self.start)) - stays, ends)
        share: Float64 = 1.0 - last @ np.cumprod(1.0 - self.hazard, axis=1)
        return share

    def paths(self, policy: Float64, horizon: int) -> Iterator[tuple[float, ProcessLog]]:
        """Every path of at most ``horizon`` requests with its probability (rewards at their means); for tiny processes."""

        def grow(chance: float, rows: tuple[tuple[int, int, bool], ...], state: int) -> Iterator[tuple[float, ProcessLog]]:
            for action in range(policy.shape[1]):
                for ends in (False, True):
                    p = chance * policy[state, action] * (self.end if ends else 1 - self.end)[state, action]
                    here = (*rows, (state, action, ends))
                    moved = self.move[state, action]
                    if p == 0:
                        continue
                    if len(here) == horizon:
                        yield p, self._one(here, policy, left=False)
                        continue
                    on = (moved * self.returns) @ self.rest if ends else moved
                    if on.sum() < 1:
                        yield p * float(1 - on.sum()), self._one(here, policy, left=True)
                    for following in np.flatnonzero(on):
                        yield from grow(p * float(on[following]), here, int(following))

        for state in np.flatnonzero(self.start):
            yield from grow(float(self.start[state]), (), int(state))

    def _one(self, rows: tuple[tuple[int, int, bool], ...], logger: Float64, left: bool) -> ProcessLog:
        state, action, ends = (np.array(column) for column in zip(*rows, strict=True))
        last = np.zeros(len(rows), dtype=bool)
        last[-1] = left
        return ProcessLog(
            Offsets.from_lengths([len(rows)]),
            *(state, action, self.reward[state, action], ends, last, np.zeros(len(rows), dtype=np.int64), logger),
        )

    def draw(self, logger: Float64, users: int, horizon: int, seed: int) -> ProcessLog:
        """The first ``horizon`` requests of each user, fewer of those who leave for good."""
        streams, lanes = Streams(seed), np.arange(users)
        state, alive = _choose(self.start[None], streams.uniform(lanes, 0, Purpose.USERS)), np.ones(users, dtype=bool)
        columns: list[tuple[NDArray[Any], ...]] = []
        survival = np.cumprod(1.0 - self.hazard, axis=1)
        for step in range(horizon):
            u = [streams.uniform(lanes, step, p) for p in (Purpose.EXPLORATION, Purpose.RESPONSES, Purpose.DRIFT, Purpose.LEAVING)]
            action = _choose(logger[state], u[0])
            reward = (u[1] < self.reward[state, action]).astype(np.float64)
            moved = _choose(self.move[state, action], u[2])
            ends = u[3] < self.end[state, action]
            # the day on which survival first falls to the draw; beyond the last one: never
            day = 1 + (survival[moved] > streams.uniform(lanes, step, Purpose.RETURN)[:, None]).sum(axis=1)
            gone = ends & (day > self.hazard.shape[1])
            columns.append((alive.copy(), state, action, reward, ends, gone, np.where(ends, day, 0)))
            rested = _choose(self.rest[moved], streams.uniform(lanes, step, Purpose.CANDIDATES))
            state, alive = np.where(ends, rested, moved), alive & ~gone
        seen, states, actions, rewards, ended, left, days = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
        offsets = Offsets.from_lengths(seen.sum(axis=1))
        return ProcessLog(offsets, states[seen], actions[seen], rewards[seen], ended[seen], left[seen], days[seen], logger)


@dataclass(frozen=True, eq=False)
class ProcessLog:
    """Requests of users, one user after the other: ``users`` offsets over rows with the columns below, (n,) each.

    ``gap_days`` is the day of return after a session's last request, beyond the hazards' last day for users who left; else 0.
    """

    users: Offsets
    state: Int64
    action: Int64
    reward: Float64
    session_end: Bool
    left: Bool
    gap_days: Int64
    logger: Float64

    def feedback(self, target: Float64, signal: Signal) -> LoggedFeedback:
        """Users' trajectories for the policy ``target`` (S, A)."""
        cell = (self.state, self.action)
        return LoggedFeedback(
            self.reward,
            _log(target[cell]),
            _log(self.logger[cell]),
            self.users.segment_ids(),
            trajectory=self.users,
            discount=step_discounts(signal, self.session_end),
        )

    def features(self, target: Float64) -> tuple[Float64, TargetActions]:
        """One column for each pair of state and action, of the logged rows and of the target policy's actions."""
        return _one_hot(self.state, self.action, target)

    def predicted(self, target: Float64, signal: Signal, q: Float64) -> LoggedFeedback:
        """:meth:`feedback` with predictions from a table ``q`` (S, A)."""
        values = (target * q).sum(axis=1)[self.state]
        return replace(self.feedback(target, signal), target_value=values, logged_value=q[self.state, self.action])

    def first_sessions(self, target: Float64, observed_days: Int64) -> RetentionLog:
        """The first session of each user and the return after it, observed for so many days (users,); unfinished sessions are left out."""
        starts = self.users.values[:-1]
        ended = np.flatnonzero(self.session_end)
        first = np.searchsorted(ended, starts)
        whole = (first < ended.size) & (ended[np.minimum(first, ended.size - 1)] < self.users.values[1:])
        last = ended[first[whole]]
        sizes = last + 1 - starts[whole]
        inside = np.repeat(starts[whole] - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
        sessions, cell = Offsets.from_lengths(sizes), (self.state[inside], self.action[inside])
        gap, seen = self.gap_days[last], observed_days[whole]
        returned = (gap <= seen) & ~self.left[last]
        return RetentionLog(
            np.where(returned, gap, seen),
            returned,
            sessions.sum(_log(target[cell])),
            sessions.sum(_log(self.logger[cell])),
            np.flatnonzero(whole),
        )


def softmax_policy(seed: int, states: int, actions: int, sharpness: float = 1.0) -> Float64:
    """A random policy, (states, actions), rows that sum to 1; ``sharpness`` 0 is uniform, larger is more decided."""
    weight = np.exp(sharpness * Streams(seed).normal([7], 0, Purpose.INITIALISATION, (states, actions))[0])
    table: Float64 = weight / weight.sum(axis=1, keepdims=True)
    return table


def _choose(chances: Float64, uniform: Float64) -> Int64:
    """One choice a row from chances (1 or n, choices)."""
    return np.minimum((uniform[:, None] > np.cumsum(chances, axis=1)).sum(axis=1), chances.shape[1] - 1)


def _one_hot(where: Int64, action: Int64, target: Float64) -> tuple[Float64, TargetActions]:
    places, actions = target.shape
    eye = np.eye(places * actions)
    every = eye.reshape(places, actions, -1)
    return eye[where * actions + action], lambda rows: (every[where[rows]], target[where[rows]])


def _log(chance: Float64) -> Float64:
    with np.errstate(divide="ignore"):
        return np.log(chance)


def _sigmoid(x: Float64) -> Float64:
    out: Float64 = 1.0 / (1.0 + np.exp(-x))
    return out
