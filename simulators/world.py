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
from simulators.drift import Drift
from simulators.feedback import FeedbackLaw
from simulators.leave import LeaveLaw
from simulators.ranking import CandidatePools, Ranker
from simulators.response import LatentResponse
from simulators.response_model import ResponseModel
from simulators.retention import RetentionLaw
from simulators.satisfaction import Satisfaction, mean_satisfaction
from simulators.state import WHOLE, Rows, UserState
from simulators.unseen import with_unseen

F = len(BEHAVIOURS)
RATE_DECAY = 0.9
"""Weight of the past in ``UserState.rates``."""
_TILE = 16_384


class RetentionWorld:
    """Users, a catalogue and time.

    Args:
        config: options.
        response: what users do with shown items; a latent, a sequence or a boosted model.
        leave: when sessions end.
        retention: when users come back; the scenario of ``config`` sets its ``eta_s``.
        satisfaction: how feedback becomes satisfaction.
        baseline: (n_users,) each user's own satisfaction under the exposure the laws were fitted to; ``None`` averages over the catalogue.
        groups: (n_users,) activity group of each user, -1 for none.
        objective: the reward signals.
        scorer: the platform's own response model, which ranks for fusion weights and predicts ``candidate_scores``; ``None`` takes
            ``response.platform()``, a platform that knows its users perfectly, as they were fitted: it hears of no drift.
        item_vectors: (n_items, D) what ``embedding`` actions are matched with; ``None`` takes the scorer's.
        device: where everything lives.

    A simulated user is an integer id: ``id % n_users`` is the catalogue user whose tastes it has, the id itself keys its random
    draws; negative ids are unknown users. Catalogue users from ``n_logged`` on were never logged, see :mod:`simulators.unseen`. Every
    draw is a function of (seed, id, own request counter), so a trajectory does not depend on the batch, its order or its shards.

    **Errors**: :class:`ConfigError` for options, signals and tables that do not fit.
    """

    def __init__(
        self,
        config: WorldConfig,
        response: ResponseModel,
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
        self.scorer = (response.platform() if scorer is None else scorer).to(device)
        self.n_logged = response.n_users
        baseline = mean_satisfaction(response.to(device), satisfaction) if baseline is None else baseline
        response, baseline, groups = with_unseen(config.drift, response, satisfaction, baseline, groups)
        self.response = response.to(device)
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
        self.drift = self._drifting(groups)
        self._pools = CandidatePools(self.n_items, config.pool_size, exclude, device, self.drift) if config.pool_size else None
        self._ranker = Ranker(self.scorer, vectors, self._pools, config.shown, exclude, self.drift)
        self.action_spec = self._action_spec(int(vectors.shape[1]))
        self._signals = self._columns()
        self._baseline = self._user_table(baseline, "baseline", None)
        self._group_effect = self._user_table(self._effects(groups), "groups", 0.0)
        self._prepare_constants()

    # ------------------------------------------------------------------ set-up

    def _drifting(self, groups: Tensor | None) -> Drift | None:
        """The path of the drift, ``None`` where nothing drifts: then nothing is asked of it."""
        config, drift = self.config, self.config.drift
        items_change = drift.newborn_share > 0 or drift.item_life_days > 0
        if drift.kind == "none" and not items_change:
            return None
        dim = self.response.dim if drift.kind == "taste" else 0
        path = Drift(drift, horizon_days=config.horizon_days, dim=dim, n_items=self.n_items, groups=groups, device=self.device)
        if items_change and config.pool_size == 0:
            if config.observe_scores or config.action_kind in ("item", "slate"):
                raise ConfigError(
                    "items come and go, and the whole catalogue would be listed",
                    where="WorldConfig.pool_size",
                    mend="set a pool_size: pools hold live items alone",
                )
            if config.shown + config.exclude_recent > path.fewest_live:
                raise ConfigError(
                    f"{path.fewest_live} live items cannot fill a slate of {config.shown} with exclude_recent={config.exclude_recent}",
                    where="WorldConfig.drift",
                    mend="let fewer items be born late or die",
                )
        return path

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
        self._feedback = FeedbackLaw(self.response.off_click, self.response.watch)
        # by weekday of the session: day 0 is a Monday
        self._day_logits = torch.tensor(law.calendar(np.arange(7)) + np.asarray(law.day_logits), dtype=torch.float32, device=device)
        self._session_span = 1.0 - self.leave.max_requests * self.config.request_seconds / 86_400.0

    # ------------------------------------------------------------------ users

    def population(self, n: int, seed: int = 0, *, first: int = 0) -> Tensor:
        """Ids of ``n`` simulated users drawn with replacement from the fitted ones, ``(n,)`` int64; shards ask from ``first`` on."""
        return self.users_numbered(np.arange(first, first + n, dtype=np.int64), seed)

    def users_numbered(self, numbers: NDArray[np.int64] | Tensor, seed: int) -> Tensor:
        """The ids that a population gives to these numbers, ``(n,)`` int64: different numbers are different users."""
        number, streams = torch.as_tensor(numbers, device=self.device), TensorStreams(seed, self.device)
        if self._newcomers:
            assert self.drift is not None
            user = self.drift.arriving(self._arrival(number), streams.uniform(number, 1, Purpose.USERS, (2,)))
            assert user is not None
            return number * self.n_users + user
        return number * self.n_users + streams.integers(self.n_users, number, 0, Purpose.USERS)

    @property
    def _newcomers(self) -> bool:
        """Whether users arrive on days of their own, in proportions that drift."""
        return self.drift is not None and self.config.drift.kind == "mix"

    def _arrival(self, number: Tensor) -> Tensor:
        """Day of the first session of the user of each number: uniform over the horizon."""
        days = TensorStreams(self.config.drift.seed, self.device)
        return days.integers(self.config.horizon_days, number, 0, Purpose.USERS).to(torch.float32)

    @torch.no_grad()
    def initial_state(self, users: Any, streams: TensorStreams) -> UserState:
        """Fresh users ``(B,)``: satisfied as usual, rested, of average gap memory.

        First session on day 0; where the mix of users drifts, on a day of each user's own.
        """
        uid = torch.as_tensor(users, device=self.device).to(torch.int64).reshape(-1)
        user = torch.where(uid >= 0, uid % self.n_users, -1)
        b, h = len(uid), self.config.history
        zero = torch.zeros(b, device=self.device)
        count = torch.zeros(b, dtype=torch.int32, device=self.device)
        counter = torch.zeros(b, dtype=torch.int64, device=self.device)
        baseline = self._baseline[torch.where(user >= 0, user, self.n_users)]
        day = streams.uniform(uid, 0, Purpose.USERS) * self._session_span
        if self._newcomers:
            day = day + self._arrival(torch.div(uid, self.n_users, rounding_mode="floor"))
        return UserState(
            uid=uid,
            user=user,
            counter=counter,
            session=count,
            requests=count.clone(),
            day=day,
            since=zero,
            satisfaction=baseline,
            baseline=baseline.clone(),
            fatigue=zero.clone(),
            gap_memory=torch.full_like(zero, self.retention.memory_mean),
            rates=torch.zeros(b, F, device=self.device),
            history_items=torch.full((b, h), -1, dtype=torch.int32, device=self.device),
            history_feedback=torch.zeros(b, h, dtype=torch.uint8, device=self.device),
            memory=self.response.initial_memory(user),
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
            user=self._named(state.user),
            history_items=state.history_items.to(torch.int64),
            history_feedback=state.history_feedback,
            clock=clock,
            candidates=candidates,
            candidate_scores=scores,
        )
        return everyone if batch == len(state) else everyone[:batch]

    def _named(self, user: Tensor) -> Tensor:
        """Catalogue users as the platform knows them: those who were never logged are unknown."""
        return user if self.n_users == self.n_logged else torch.where(user < self.n_logged, user, -1)

    def _filled(self, state: UserState) -> UserState:
        """The state with its last user repeated until the batch is a whole number of vectors."""
        index = self._filling(len(state))
        return state if index is None else state[index]

    def _filling(self, batch: int) -> Tensor | None:
        if self.device.type != "cpu" or batch % WHOLE == 0:
            return None
        return torch.arange(-(-batch // WHOLE) * WHOLE).clamp_max_(batch - 1)

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
        return self._pools.listed(state.pool, state.history_items, state.day)

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
        config, gone = self.config, Rows(~s.alive)
        vector = self.action_spec.is_vector
        shown = self._ranker.slates(config.action_kind, value, s) if vector else value
        feedback, rates, watch, told = self._respond(s, shown, streams)
        worth = self._worth.index_select(0, feedback.to(torch.int64).view(-1)).view(feedback.shape)
        mood = self.satisfaction.decay * s.satisfaction + (1.0 - self.satisfaction.decay) * worth.mean(1)
        deviation = mood - s.baseline
        ends, leave_hazard = self._leaves(s, deviation, streams)
        counter = s.counter + s.alive
        made = replace(
            s,
            counter=counter,
            session=s.session + ends,
            requests=s.requests + 1,
            day=s.day + config.request_seconds / 86_400.0,
            satisfaction=mood,
            rates=RATE_DECAY * s.rates + (1.0 - RATE_DECAY) * rates,
            history_items=_pushed(s.history_items, shown.to(torch.int32)),
            history_feedback=_pushed(s.history_feedback, feedback),
            memory=self.response.advance(s.memory, shown, feedback),
            pool=self._draw_pool(s.uid, counter, streams),
        )
        told |= {"active": s.alive, "leave_hazard": leave_hazard, "satisfaction": mood, "day": s.day} if config.truth else {}
        told |= {"drift": self.drift.truth(s.day)} if config.truth and self.drift is not None else {}
        after, churned, late, gap_days = self._returns(made, s.day, deviation, ends, streams, told)
        return _as_they_were(gone, s, after), Outcome(
            reward=gone.fill(self._reward(rates, watch, gap_days, churned), 0.0),
            terminated=churned,
            truncated=late,
            session_end=ends,
            gap_days=gap_days,
            shown=gone.fill(shown.clone(), -1),
            feedback=gone.fill(feedback, 0),
            watch_seconds=None if watch is None else gone.fill(watch, 0.0),
            truth=told,
        )

    def _respond(self, s: UserState, shown: Tensor, streams: TensorStreams) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Tensor]]:
        """Feedback bytes (B, K), behaviour rates over the slate (B, 7), watch seconds (B, K), and the true probabilities where wanted."""
        logits, factor = self._logits(s, shown), None if self.drift is None else self.drift.factor(s.day)
        words = streams.planes(s.uid, s.counter, Purpose.RESPONSES, (shown.shape[1], 2))
        told = {"probabilities": self._feedback.marginals(logits, factor)} if self.config.truth else {}
        return *self._feedback.draw(logits, words, factor), told

    def _logits(self, s: UserState, shown: Tensor) -> Tensor:
        """Log-odds of the behaviours and the watch bias, (K, B, 8): in memory, items come before users, see :class:`FeedbackLaw`."""
        drift, response = self.drift, self.response
        if drift is None:
            return response.request_logits(s.user, s.memory, shown).transpose(0, 1).contiguous()
        logits = response.request_logits(s.user, s.memory, shown)
        if self.config.drift.kind == "taste":
            users, items, loadings = response.tastes(s.user, s.memory, shown)
            gain = ((drift.turned(s.day, users) - users).unsqueeze(1) * items).sum(2, keepdim=True)
            logits = logits + gain * torch.nn.functional.pad(loadings, (0, 1))
        shift, fading = drift.response_shift(s.day), drift.item_shift(s.day, shown)
        if shift is not None:
            logits = logits + torch.nn.functional.pad(shift, (0, 1)).unsqueeze(1)
        if fading is not None:
            logits = logits + torch.nn.functional.pad(fading.unsqueeze(2), (0, logits.shape[2] - 1))
        return logits.transpose(0, 1).contiguous()

    def _leaves(self, s: UserState, deviation: Tensor, streams: TensorStreams) -> tuple[Tensor, Tensor]:
        """Whose session ends with this request, and the hazard of it: two (B,)."""
        hazard = torch.sigmoid(self.leave.logit(torch.log1p(s.requests.to(torch.float32)), torch.log1p(s.fatigue), deviation))
        leaves = streams.uniform(s.uid, s.counter, Purpose.LEAVING) < hazard
        return (leaves | (s.requests + 1 >= self.leave.max_requests)) & s.alive, hazard

    def _returns(
        self, made: UserState, day: Tensor, deviation: Tensor, ends: Tensor, streams: TensorStreams, told: dict[str, Tensor]
    ) -> tuple[UserState, Tensor, Tensor, Tensor]:
        """Users whose session has ended move on to the next one, or churn.

        -> state; who churned, whose next session lies beyond the horizon, and the gap in days where a session ended, K + 1 for churn: (B,).
        """
        # hazards of users whose session goes on are computed for the truth alone
        law, ended = self.retention, Rows(ends, everybody=self.config.truth)
        e = ended.of
        user, deviation, memory = e(made.user), e(deviation), e(made.gap_memory)
        score = law.score(deviation, memory, self._group_effect[torch.where(user >= 0, user, self.n_users)])
        shift = None if self.drift is None else self.drift.return_shift(e(day))
        if shift is not None:
            score = score + shift
        weekday = torch.remainder(torch.floor(e(day)), 7.0).to(torch.int64)
        hazards = torch.sigmoid(self._day_logits[weekday] + score.unsqueeze(1))
        # the counter of live users has moved on
        draws = streams.uniform(e(made.uid), e(made.counter) - 1, Purpose.RETURN, (2,))
        # one uniform against the cumulative law, so that a higher hazard never means a later return
        gap = 1.0 + (draws[:, :1] < torch.cumprod(1.0 - hazards, dim=1)).sum(1)
        churned = gap > law.max_days
        now, baseline, fatigue = e(made.day), e(made.baseline), e(made.fatigue)
        start = torch.floor(e(day)) + gap + draws[:, 1] * self._session_span
        calmed = baseline + deviation * self.satisfaction.decay_per_day**gap
        rested = (fatigue + e(made.requests)) * torch.exp2(-gap / self.leave.fatigue_half_life_days)
        gaps = law.memory_decay * memory + (1.0 - law.memory_decay) * torch.log(gap)
        nobody, nothing = torch.zeros_like(ends), torch.zeros_like(made.day)
        gone, late = ended.put(nobody, churned), ended.put(nobody.clone(), ~churned & (start >= self.config.horizon_days))
        told |= {"return_hazards": hazards} if self.config.truth else {}
        after = replace(
            made,
            requests=ended.fill(made.requests, 0),
            day=ended.put(made.day, torch.where(churned, now, start)),
            since=ended.put(made.since.clone(), torch.where(churned, e(made.since), start - now)),
            satisfaction=ended.put(made.satisfaction, torch.where(churned, e(made.satisfaction), calmed)),
            fatigue=ended.put(made.fatigue.clone(), torch.where(churned, fatigue, rested)),
            gap_memory=ended.put(made.gap_memory.clone(), torch.where(churned, memory, gaps)),
            alive=made.alive & ~gone & ~late,
        )
        return after, gone, late, ended.put(nothing, gap)

    def _reward(self, rates: Tensor, watch: Tensor | None, gap_days: Tensor, churned: Tensor) -> Tensor:
        scale = float(self.config.shown) if self.config.slate_reward == "sum" else 1.0
        columns = []
        for code, signal in zip(self._signals, self.objective.signals, strict=True):
            if code == -1:
                away = gap_days.clamp_max(float(self.objective.max_gap_days))
                columns.append(-torch.where(churned, self.objective.churn_days(signal), away))
            else:
                mean = watch.mean(1) if code == F and watch is not None else rates[:, code]
                columns.append(mean * scale)
        return torch.stack(columns, dim=1)


def _pushed(history: Tensor, new: Tensor) -> Tensor:
    """Histories (B, H) with the newest entries (B, K) at the end."""
    return torch.cat([history[:, new.shape[1] :], new[:, -history.shape[1] :]], dim=1)


def _as_they_were(rows: Rows, before: UserState, after: UserState) -> UserState:
    """The state after a request, with these users as they were before it."""
    if rows.nobody:
        return after
    names = [f.name for f in fields(UserState) if getattr(after, f.name) is not getattr(before, f.name)]
    return replace(after, **{name: rows.put(getattr(after, name), rows.of(getattr(before, name))) for name in names})


def _mapped(outcome: Outcome, function: Callable[[Tensor], Tensor]) -> Outcome:
    changed = {f.name: getattr(outcome, f.name) for f in fields(outcome) if f.name != "truth"}
    truth = {name: function(x) for name, x in outcome.truth.items()}
    return Outcome(**{name: None if x is None else function(x) for name, x in changed.items()}, truth=truth)


def _joined(parts: list[Outcome]) -> Outcome:
    """Outcomes of several tiles, one after the other."""
    columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(Outcome) if f.name != "truth"}
    truth = {name: torch.cat([p.truth[name] for p in parts]) for name in parts[0].truth}
    return Outcome(**{name: None if xs[0] is None else torch.cat(xs) for name, xs in columns.items()}, truth=truth)
