"""The simulated world: users who respond, leave and come back, as pure functions over a struct of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import ActionSpec, Observation, Outcome
from recrl.core.errors import ConfigError, ContractError
from recrl.core.objective import Objective
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from simulators.config import WorldConfig
from simulators.leave import LeaveLaw
from simulators.ranking import CandidatePools, Ranker
from simulators.response import LatentResponse, normal_quantiles
from simulators.retention import RetentionLaw
from simulators.satisfaction import Satisfaction
from simulators.state import UserState

F = len(BEHAVIOURS)
RATE_DECAY = 0.9
"""Weight of the past in ``UserState.rates``."""
_TILE = 4096
# torch computes what is left over after whole vectors by other instructions, whose last bits differ: batches are filled up to
# a multiple of this, so that a user's numbers depend on nobody else (on CPU, with one thread)
_WHOLE = 32
# collects the lowest bit of each of eight bytes into the highest byte
_PACK = 0x0102040810204080


class RetentionWorld:
    """Users, a catalogue and time.

    Args:
        config: options.
        response: what users do with shown items.
        leave: when sessions end.
        retention: when users come back; the scenario of ``config`` sets its ``eta_s``.
        satisfaction: how feedback becomes satisfaction.
        baseline: (n_users,) each user's own satisfaction under the exposure the laws were fitted to; ``None`` averages over the catalogue.
        groups: (n_users,) activity group of each user, -1 for none.
        objective: the reward signals.
        scorer: the platform's own response model, which ranks for fusion weights and predicts ``candidate_scores``; ``None`` takes
            ``response``, a platform that knows its users perfectly.
        item_vectors: (n_items, D) what ``embedding`` actions are matched with; ``None`` takes the scorer's.
        device: where everything lives.

    A simulated user is an integer id: ``id % n_users`` is the catalogue user whose tastes it has, the id itself keys its random
    draws; negative ids are unknown users. Every draw is a function of (seed, id, own request counter), so a trajectory does not
    depend on the batch, its order or its shards.

    **Errors**: :class:`ConfigError` for options, signals and tables that do not fit.
    """

    def __init__(
        self,
        config: WorldConfig,
        response: LatentResponse,
        leave: LeaveLaw,
        retention: RetentionLaw,
        *,
        satisfaction: Satisfaction = Satisfaction(),  # noqa: B008 - frozen
        baseline: Tensor | None = None,
        groups: Tensor | None = None,
        objective: Objective = Objective(),  # noqa: B008 - frozen
        scorer: LatentResponse | None = None,
        item_vectors: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.objective, self.satisfaction, self.leave = config, objective, satisfaction, leave
        self.retention = retention.under(config.scenario)
        self.device = torch.device(device)
        self.response = response.to(device)
        self.scorer = self.response if scorer is None else scorer.to(device)
        self.n_users, self.n_items = response.n_users, response.n_items
        if self.scorer.n_items != self.n_items:
            raise ConfigError(
                f"the scorer knows {self.scorer.n_items} items, the world {self.n_items}",
                where="RetentionWorld.scorer",
                mend="fit both to the same store",
            )
        vectors = self.scorer.item_vectors if item_vectors is None else item_vectors.to(device, torch.float32)
        if len(vectors) != self.n_items:
            raise ConfigError(f"{len(vectors)} item vectors for {self.n_items} items", where="RetentionWorld.item_vectors")
        exclude = config.exclude_recent
        if config.pool_size == 0 and config.shown + exclude > self.n_items:
            raise ConfigError(
                f"{self.n_items} items cannot fill a slate of {config.shown} with exclude_recent={exclude}",
                where="WorldConfig.exclude_recent",
            )
        if leave.max_requests * config.request_seconds > 43_200:
            raise ConfigError(
                f"sessions of {leave.max_requests} requests of {config.request_seconds:g} seconds do not fit a day",
                where="WorldConfig.request_seconds",
                mend="lower it: a session may take half a day",
            )
        self._pools = CandidatePools(self.n_items, config.pool_size, exclude, device) if config.pool_size else None
        self._ranker = Ranker(self.scorer, vectors, self._pools, config.shown, exclude)
        self.action_spec = self._action_spec(int(vectors.shape[1]))
        self._signals = self._columns()
        self._baseline = self._user_table(
            mean_satisfaction(self.response, satisfaction) if baseline is None else baseline, "baseline", None
        )
        self._group_effect = self._user_table(self._effects(groups), "groups", 0.0)
        self._prepare_constants()

    # ------------------------------------------------------------------ set-up

    def _action_spec(self, dim: int) -> ActionSpec:
        config = self.config
        if config.action_kind == "fusion_weights":
            return ActionSpec("fusion_weights", (F,))
        if config.action_kind == "embedding":
            return ActionSpec("embedding", (dim,))
        shape = (config.slate_size,) if config.action_kind == "slate" else ()
        return ActionSpec(config.action_kind, shape, choices=self.n_items, candidates="pool" if config.pool_size else "catalogue")

    def _columns(self) -> list[int]:
        """For each signal: a behaviour's bit, 7 for watch time, -1 for the return gap."""
        known = {**{name: k for k, name in enumerate(BEHAVIOURS)}, "return": -1}
        if self.response.watch is not None:
            known["watch_seconds"] = F
        for signal in self.objective.signals:
            if signal.name not in known:
                raise ConfigError(f"this world has no signal {signal.name!r}", where="objective", mend=f"choose from {', '.join(known)}")
        return [known[signal.name] for signal in self.objective.signals]

    def _effects(self, groups: Tensor | None) -> Tensor:
        effects = torch.tensor([*self.retention.group_effects, 0.0], dtype=torch.float32)
        if groups is None:
            return torch.zeros(self.n_users)
        code = groups.cpu().long()
        if len(code) and (int(code.min()) < -1 or int(code.max()) >= len(effects) - 1):
            raise ConfigError(
                f"groups hold codes outside -1..{len(effects) - 2}",
                where="RetentionWorld.groups",
                mend="give positions in RetentionLaw.group_names, -1 for none",
            )
        return effects[code]

    def _user_table(self, values: Tensor, name: str, unknown: float | None) -> Tensor:
        if tuple(values.shape) != (self.n_users,):
            raise ConfigError(
                f"{name} has shape {tuple(values.shape)}",
                where=f"RetentionWorld.{name}",
                mend=f"give one value for each of {self.n_users} users",
            )
        last = values.float().mean() if unknown is None else torch.tensor(unknown)
        return torch.cat([values.float().cpu(), last.reshape(1).cpu()]).to(self.device)

    def _prepare_constants(self) -> None:
        device, law = self.device, self.retention
        self._worth = torch.from_numpy(self.satisfaction.of_bits()).to(device)
        self._off_click = torch.cat([self.response.off_click, torch.zeros(1, device=device)])
        self._day_logits = torch.tensor(law.day_logits, dtype=torch.float32, device=device)
        self._session_span = 1.0 - self.leave.max_requests * self.config.request_seconds / 86_400.0
        watch = self.response.watch
        if watch is not None:
            # by the two lowest feedback bits
            self._watch_mean = torch.tensor(watch.mean, dtype=torch.float32, device=device)
            self._watch_spread = torch.tensor(watch.spread, dtype=torch.float32, device=device)
            self._quantiles = normal_quantiles().to(device)

    # ------------------------------------------------------------------ users

    def population(self, n: int, seed: int = 0, *, first: int = 0) -> Tensor:
        """Ids of ``n`` simulated users drawn with replacement from the fitted ones, ``(n,)`` int64; shards ask from ``first`` on."""
        return self.users_numbered(np.arange(first, first + n, dtype=np.int64), seed)

    def users_numbered(self, numbers: NDArray[np.int64] | Tensor, seed: int) -> Tensor:
        """The ids that a population gives to these numbers, ``(n,)`` int64: different numbers are different users."""
        number = torch.as_tensor(numbers, device=self.device)
        return number * self.n_users + TensorStreams(seed, self.device).integers(self.n_users, number, 0, Purpose.USERS)

    @torch.no_grad()
    def initial_state(self, users: Any, streams: TensorStreams) -> UserState:
        """Fresh users ``(B,)``: first session on day 0, satisfied as usual, rested, of average gap memory."""
        uid = torch.as_tensor(users, device=self.device).to(torch.int64).reshape(-1)
        user = torch.where(uid >= 0, uid % self.n_users, -1)
        b, h = len(uid), self.config.history
        zero = torch.zeros(b, device=self.device)
        count = torch.zeros(b, dtype=torch.int32, device=self.device)
        counter = torch.zeros(b, dtype=torch.int64, device=self.device)
        baseline = self._baseline[torch.where(user >= 0, user, self.n_users)]
        return UserState(
            uid=uid,
            user=user,
            counter=counter,
            session=count,
            requests=count.clone(),
            day=streams.uniform(uid, 0, Purpose.USERS) * self._session_span,
            since=zero,
            satisfaction=baseline,
            baseline=baseline.clone(),
            fatigue=zero.clone(),
            gap_memory=torch.full_like(zero, self.retention.memory_mean),
            rates=torch.zeros(b, F, device=self.device),
            history_items=torch.full((b, h), -1, dtype=torch.int32, device=self.device),
            history_feedback=torch.zeros(b, h, dtype=torch.uint8, device=self.device),
            pool=self._draw_pool(uid, counter, streams),
            alive=torch.ones(b, dtype=torch.bool, device=self.device),
        )

    def _draw_pool(self, uid: Tensor, counter: Tensor, streams: TensorStreams) -> Tensor:
        return torch.zeros_like(counter) if self._pools is None else self._pools.draw(uid, counter, streams)

    # ------------------------------------------------------------------ what a policy sees

    @torch.no_grad()
    def observe(self, state: UserState) -> Observation:
        """What a policy sees: history, clock, flat features, and candidates where it chooses among them.

        ``features`` (B, D + 11): the scorer's user vector, running behaviour rates, and the clock with its counts in logarithms.
        """
        batch, state = len(state), self._filled(state)
        requests = state.requests.to(torch.float32)
        hour = torch.remainder(state.day, 1.0)
        clock = torch.stack([torch.log1p(state.since), requests, torch.log1p(state.session.to(torch.float32)), hour], dim=1)
        vector = self.scorer.user_rows(state.user)[:, : self.scorer.dim]
        features = torch.cat([vector, state.rates, clock], dim=1)
        features[:, -3] = torch.log1p(requests)
        candidates = scores = None
        if self._lists_candidates():
            candidates = self._listed(state)
            scores = self.scorer.scores(state.user, candidates) if self.config.observe_scores else None
        everyone = Observation(
            features=features,
            user=state.user,
            history_items=state.history_items.to(torch.int64),
            history_feedback=state.history_feedback,
            clock=clock,
            candidates=candidates,
            candidate_scores=scores,
        )
        return everyone if batch == len(state) else everyone[:batch]

    def _filled(self, state: UserState) -> UserState:
        """The state with its last user repeated until the batch is a whole number of vectors."""
        index = self._filling(len(state))
        return state if index is None else state[index]

    def _filling(self, batch: int) -> Tensor | None:
        if self.device.type != "cpu" or batch % _WHOLE == 0:
            return None
        return torch.arange(-(-batch // _WHOLE) * _WHOLE).clamp_max_(batch - 1)

    @property
    def n_features(self) -> int:
        """Width of ``Observation.features``."""
        return self.scorer.dim + F + 4

    def _lists_candidates(self) -> bool:
        chooses = self._pools is not None and self.config.action_kind in ("item", "slate")
        return chooses or self.config.observe_scores

    def _listed(self, state: UserState) -> Tensor:
        if self._pools is None:
            return torch.arange(self.n_items, device=self.device).expand(len(state), -1)
        return self._pools.listed(state.pool, state.history_items)

    # ------------------------------------------------------------------ one request

    @torch.no_grad()
    def transition(self, state: UserState, action: Any, streams: TensorStreams) -> tuple[UserState, Outcome]:
        """One request for every live user; the others stay as they are and get zeros.

        Where the session ends, the user's clock moves to the next session. A user who is not back within ``K`` days has churned:
        ``terminated``, with ``gap_days = K + 1``. One whose next session lies at or beyond the horizon is ``truncated``.

        **Errors**: :class:`ContractError` for an action of another shape, of unknown items or (on CPU) with a NaN.
        """
        batch, value = len(state), self._checked(action, len(state))
        index = self._filling(batch)
        if index is not None:
            state, value = state[index], value[index]
        tile = _TILE if self.device.type == "cpu" else max(len(state), 1)
        # tiles keep what a request touches in the cache
        parts = [self._step(state[lo : lo + tile], value[lo : lo + tile], streams) for lo in range(0, max(len(state), 1), tile)]
        after, outcome = parts[0] if len(parts) == 1 else (UserState.concatenate([s for s, _ in parts]), _joined([o for _, o in parts]))
        return (after, outcome) if index is None else (after[:batch], _mapped(outcome, lambda x: x[:batch]))

    def _checked(self, action: Any, batch: int) -> Tensor:
        value = torch.as_tensor(action, device=self.device).detach()
        spec = self.action_spec
        if tuple(value.shape) != (batch, *spec.shape):
            raise ContractError(
                f"action of shape {tuple(value.shape)} for {batch} users",
                where="RetentionWorld.transition",
                mend=f"give ({batch}, {', '.join(map(str, spec.shape))})",
            )
        if spec.is_vector:
            value = value.to(torch.float32)
            if self.device.type == "cpu" and not bool(torch.isfinite(value).all()):
                raise ContractError("the action holds NaN or infinity", where="RetentionWorld.transition", mend="check the policy")
            return value
        if value.is_floating_point():
            raise ContractError(f"items must be integers, got {value.dtype}", where="RetentionWorld.transition", mend="give item indices")
        value = value.to(torch.int64).reshape(batch, -1)
        # on an accelerator the check would wait for the device; there an unknown item counts as the average item
        if self.device.type == "cpu" and batch and (int(value.min()) < 0 or int(value.max()) >= self.n_items):
            raise ContractError(
                f"the action holds an item outside 0..{self.n_items - 1}",
                where="RetentionWorld.transition",
                mend="choose from the candidates",
            )
        return value

    def _step(self, s: UserState, value: Tensor, streams: TensorStreams) -> tuple[UserState, Outcome]:
        config, alive = self.config, s.alive
        vector = self.action_spec.is_vector
        shown = self._ranker.slates(config.action_kind, value, s.user, s.pool, s.history_items) if vector else value
        logits = self.response.logits_of_rows(self.response.user_rows(s.user), self.response.item_rows(shown))
        feedback, rates, watch = self._respond(s, logits, streams)
        # satisfaction, leaving
        mood = self.satisfaction.decay * s.satisfaction + (1.0 - self.satisfaction.decay) * self._worth[feedback.to(torch.int64)].mean(1)
        deviation = mood - s.baseline
        made = s.requests + 1
        leave_hazard = torch.sigmoid(self.leave.logit(torch.log1p(s.requests.to(torch.float32)), torch.log1p(s.fatigue), deviation))
        leaves = streams.uniform(s.uid, s.counter, Purpose.LEAVING) < leave_hazard
        ends = (leaves | (made >= self.leave.max_requests)) & alive
        hazards, gap_days, hour = self._returns(s, deviation, streams)
        churned = ends & (gap_days > self.retention.max_days)
        comes_back = ends & ~churned
        now = s.day + config.request_seconds / 86_400.0
        start = torch.floor(s.day) + gap_days + hour
        late = comes_back & (start >= config.horizon_days)
        memory = self.retention.memory_decay * s.gap_memory + (1.0 - self.retention.memory_decay) * torch.log(gap_days)
        rested = (s.fatigue + made) * torch.exp2(-gap_days / self.leave.fatigue_half_life_days)
        calmed = s.baseline + deviation * self.satisfaction.decay_per_day**gap_days
        keep = alive.unsqueeze(1)
        counter = s.counter + alive
        after = replace(
            s,
            counter=counter,
            session=s.session + ends,
            requests=torch.where(ends, 0, torch.where(alive, made, s.requests)),
            day=torch.where(comes_back, start, torch.where(alive, now, s.day)),
            since=torch.where(comes_back, start - now, s.since),
            satisfaction=torch.where(comes_back, calmed, torch.where(alive, mood, s.satisfaction)),
            fatigue=torch.where(comes_back, rested, s.fatigue),
            gap_memory=torch.where(comes_back, memory, s.gap_memory),
            rates=torch.where(keep, RATE_DECAY * s.rates + (1.0 - RATE_DECAY) * rates, s.rates),
            history_items=_pushed(s.history_items, shown.to(torch.int32), keep),
            history_feedback=_pushed(s.history_feedback, feedback, keep),
            pool=self._draw_pool(s.uid, counter, streams),
            alive=alive & ~churned & ~late,
        )
        gap_out = torch.where(ends, gap_days, 0.0)
        truth = {}
        if config.truth:
            truth = {
                "active": alive,
                "probabilities": self.response.marginals(logits[..., :F]),
                "leave_hazard": leave_hazard,
                "return_hazards": hazards,
                "satisfaction": mood,
                "day": s.day,
            }
        return after, Outcome(
            reward=self._reward(rates, watch, gap_out, alive),
            terminated=churned,
            truncated=late,
            session_end=ends,
            gap_days=gap_out,
            shown=torch.where(keep, shown, -1),
            feedback=torch.where(keep, feedback, 0),
            watch_seconds=None if watch is None else torch.where(keep, watch, 0.0),
            truth=truth,
        )

    def _returns(self, s: UserState, deviation: Tensor, streams: TensorStreams) -> tuple[Tensor, Tensor, Tensor]:
        """Hazards (B, K), the gap (B,) in days, K + 1 for churn, and the time of day (B,) of the next session, were this one to end."""
        row = torch.where(s.user >= 0, s.user, self.n_users)
        score = self.retention.score(deviation, s.gap_memory, self._group_effect[row])
        hazards = torch.sigmoid(self._day_logits + score.unsqueeze(1))
        draws = streams.uniform(s.uid, s.counter, Purpose.RETURN, (2,))
        # one uniform against the cumulative law, so that a higher hazard never means a later return
        away = torch.cumprod(1.0 - hazards, dim=1)
        gap_days = 1.0 + (draws[:, :1] < away).sum(1)
        return hazards, gap_days, draws[:, 1] * self._session_span

    def _respond(self, s: UserState, logits: Tensor, streams: TensorStreams) -> tuple[Tensor, Tensor, Tensor | None]:
        """Feedback bytes (B, K), behaviour rates over the slate (B, 7), watch seconds (B, K) from logits (B, K, 8)."""
        b, k = logits.shape[:2]
        p = torch.sigmoid(logits)
        # eight 16-bit draws an item; the last one gives all of them a fraction, so that the rarest behaviour keeps its rate
        words = streams.bits(s.uid, s.counter, Purpose.RESPONSES, (2 * k,))
        draw = words.view(torch.int16).view(b, k, 8).to(torch.float32)
        last = draw[..., 7:].clone()
        draw.add_((last + 32_768.0) * 2.0**-16 + 32_768.0).mul_(2.0**-16)
        happened = draw < torch.where(draw[..., :1] < p[..., :1], p, self._off_click)
        happened[..., 0] = draw[..., 0] < p[..., 0]
        happened[..., 7] = False
        packed = happened.view(torch.int64).squeeze(-1)
        feedback = ((packed * _PACK) >> 56).to(torch.uint8)
        rates = packed.sum(1, keepdim=True).view(torch.uint8)[:, :F].to(torch.float32) / k
        if self.response.watch is None:
            return feedback, rates, None
        state = (feedback & 3).to(torch.int64)
        normal = self._quantiles[((last[..., 0] + 32_768.0) * 2.0**-4).to(torch.int64)]
        watch = torch.expm1(self._watch_mean[state] + logits[..., 7] + self._watch_spread[state] * normal).clamp_min_(0.0)
        return feedback, rates, watch

    def _reward(self, rates: Tensor, watch: Tensor | None, gap_days: Tensor, alive: Tensor) -> Tensor:
        scale = float(self.config.shown) if self.config.slate_reward == "sum" else 1.0
        columns = []
        for code in self._signals:
            if code == -1:
                columns.append(-gap_days.clamp_max(float(self.objective.max_gap_days)))
            else:
                mean = watch.mean(1) if code == F and watch is not None else rates[:, code]
                columns.append(mean * scale)
        return torch.where(alive.unsqueeze(1), torch.stack(columns, dim=1), 0.0)


def _pushed(history: Tensor, new: Tensor, keep: Tensor) -> Tensor:
    """Histories (B, H) with the newest entries (B, K) at the end, where ``keep`` (B, 1)."""
    h = history.shape[1]
    return torch.where(keep, torch.cat([history, new], dim=1)[:, -h:], history)


def _mapped(outcome: Outcome, function: Callable[[Tensor], Tensor]) -> Outcome:
    changed = {f.name: getattr(outcome, f.name) for f in fields(outcome) if f.name != "truth"}
    truth = {name: function(x) for name, x in outcome.truth.items()}
    return Outcome(**{name: None if x is None else function(x) for name, x in changed.items()}, truth=truth)


def _joined(parts: list[Outcome]) -> Outcome:
    """Outcomes of several tiles, one after the other."""
    columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(Outcome) if f.name != "truth"}
    truth = {name: torch.cat([p.truth[name] for p in parts]) for name in parts[0].truth}
    return Outcome(**{name: None if xs[0] is None else torch.cat(xs) for name, xs in columns.items()}, truth=truth)


@torch.no_grad()
def mean_satisfaction(response: LatentResponse, satisfaction: Satisfaction, items: Tensor | None = None) -> Tensor:
    """Each user's expected satisfaction with ``items`` (n,), or with the whole catalogue: ``(n_users,)``."""
    pool = torch.arange(response.n_items, device=response.device) if items is None else items.to(response.device)
    worth = torch.tensor(satisfaction.weights, dtype=torch.float32, device=response.device)
    out = torch.empty(response.n_users, device=response.device)
    tile = max(1, 200_000 // len(pool))
    for lo in range(0, response.n_users, tile):
        users = torch.arange(lo, min(lo + tile, response.n_users), device=response.device)
        out[lo : lo + tile] = (response.scores(users, pool.expand(len(users), -1)) * worth).sum(-1).mean(1)
    return out
