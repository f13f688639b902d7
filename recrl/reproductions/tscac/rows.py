"""A log of single items as the TSCAC study uses it: training, choosing options and judging, all from logged rows.

Rows are split by time 70/15/15. States hold what came before a row. The logging policy is a clone fitted on training rows, its number of
updates chosen by validation rows; item vectors and predicted rewards come from training rows too. Bounds are the training rows' means.
Validation rows choose each method's option (:func:`chosen`), among those that keep a tenth of the rows effective.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recrl.algorithms import REGISTRY
from recrl.algorithms.task import Learner, Task
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.files import atomic_path
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.torch.views import as_tensor
from recrl.pipeline.setting import svd_item_vectors
from recrl.policies.encoders import EncoderConfig, build_encoder
from recrl.policies.items import ItemPolicy, QueryScores, item_spec
from recrl.policies.networks import initialise, mlp
from recrl.policies.vector import ActorConfig
from recrl.replay.logged import LoggedBuffer
from recrl.replay.samplers import UniformSampler
from recrl.reproductions.tscac.estimates import Estimates, Judged, effective_share, picked
from recrl_datasets import Log, split_by_time

BATCH, HISTORY, VECTOR_SIZE = 256, 20, 32
PROTECTED = ("click", "like", "long_view")
SIGNALS = ("watch_seconds", *PROTECTED)
ACTOR = ActorConfig(EncoderConfig(history=HISTORY), hidden=(128, 128))
Options = Mapping[str, Any]
LEAST_SHARE = 0.1
"""Of validation rows that must be effective for an option to be chosen: fewer tell nothing that could be held against it."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What one option of a method has become."""

    option: Options
    policy: ItemPolicy
    auxiliaries: Sequence[ItemPolicy]
    metrics: Mapping[str, float]


class Rows:
    """A log over few items.

    Args:
        log: rows sorted by user and time, with watch seconds and the protected behaviours.
        discount: of every signal.
        session_rule: how sessions are cut.
        updates: of the clone and of the reward predictions.
        moments: last milliseconds of training and validation rows; ``None`` splits the rows at hand.
        kept: a file that holds the clone's law and the predictions between runs; made where it is not there.
    """

    def __init__(
        self,
        log: Log,
        *,
        discount: float,
        session_rule: Literal["gap", "day"],
        updates: int,
        moments: tuple[int, int] | None = None,
        kept: Path | None = None,
    ) -> None:
        if moments is None:
            cut = split_by_time(log, (0.7, 0.15, 0.15))
            train, valid, test = cut.train, cut.valid, cut.test
        else:
            part = np.searchsorted(moments, log.column("timestamp_ms"), side="left")
            train, valid, test = (log.select(part == k) for k in range(3))
        self.log, self.session_rule, self.test_part = log, session_rule, test
        signals = [Signal(name, 1.0, discount, discount) for name in SIGNALS]
        bounds = (Constraint(s, "at_least", max(float(train.column(s.name).mean()), 1e-6)) for s in signals[1:])
        self.objective = Objective(signals[0], tuple(bounds))
        self.buffer = LoggedBuffer(log, self.objective, history=HISTORY, session_rule=session_rule)
        self.vectors = svd_item_vectors(train, VECTOR_SIZE)
        counts = np.bincount(train.column("item"), minlength=log.n_items)
        self.task = Task(item_spec(log.n_items), self.objective, self.vectors, torch.log1p(as_tensor(counts).float()))
        self.parts = {name: self._part(view) for name, view in (("validation", valid), ("test", test))}
        self.counts = {"train": train.n_rows, "validation": valid.n_rows, "test": test.n_rows}
        self.train_rows = self.buffer.rows_of(train, with_next=False)
        self._followed = self.buffer.rows_of(train)
        if kept is None or not kept.is_file():
            made = {**self._clone(updates), **self._predictions(updates)}
            if kept is not None:
                with atomic_path(kept) as temporary:
                    save_file(made, temporary)
        else:
            made = load_file(kept)
        self.behaviour, self.predicted = ({name: made[f"{what}.{name}"] for name in self.parts} for what in ("clone", "reward"))
        self.estimates = {name: Estimates(part, SIGNALS, self.behaviour[name], self.predicted[name]) for name, part in self.parts.items()}
        self.logged = {name: held.judged(held.logged) for name, held in self.estimates.items()}

    def _part(self, view: Log) -> Transitions:
        return self.buffer.gather(self.buffer.rows_of(view, with_next=False))

    def _clone(self, updates: int) -> dict[str, Tensor]:
        kind = REGISTRY["bc"]
        clone, best, made = kind(kind.config_type(actor=ACTOR), self.task, 99), -np.inf, {}
        sampler = UniformSampler(self.buffer, self.train_rows, 99)
        for k in range(updates):
            clone.update(sampler.sample(BATCH, k))
            if (k + 1) % max(1, updates // 10) == 0:
                found = {name: self.law(_items(clone.policy()), name) for name in self.parts}
                fit = float(picked(found["validation"], self.parts["validation"].action).mean())
                if fit > best:
                    best, made = fit, {f"clone.{name}": law for name, law in found.items()}
        return made

    def _predictions(self, updates: int) -> dict[str, Tensor]:
        """Predicted rewards of every item, (n, items, signals), for doubly robust estimates."""
        encoder, items = build_encoder(ACTOR.encoder, self.vectors), self.log.n_items
        net = mlp([encoder.width, 64, items * len(SIGNALS)])
        initialise(net, 98)
        optimiser, sampler = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.1), UniformSampler(self.buffer, self.train_rows, 98)
        scale = self.buffer.reward[self.train_rows].std(0).clamp_min(1e-6)

        def predicted(observation: Observation) -> Tensor:
            out: Tensor = net(encoder(observation)).view(-1, items, len(SIGNALS))
            return out

        for k in range(updates):
            batch = sampler.sample(BATCH, k)
            chosen = predicted(batch.observation)[torch.arange(BATCH), batch.action]
            loss = ((chosen - batch.reward / scale) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            return {f"reward.{name}": predicted(part.observation) * scale for name, part in self.parts.items()}

    @torch.no_grad()
    def law(self, policy: ItemPolicy, name: str) -> Tensor:
        """Log-probabilities of every item for the rows of a part, (n, items)."""
        states = self.parts[name].observation
        return torch.cat([policy.log_probs(states[k : k + 2_048]) for k in range(0, len(states), 2_048)])

    def judged(self, law: Tensor, name: str) -> Judged:
        """Estimates of each signal for a policy's law (n, items) over the rows of a part."""
        held = self.estimates[name]
        return held.judged(held.told(law))

    def trained(self, learner: str, options: Sequence[Options], updates: int, seed: int) -> Iterator[Trained]:
        """Each option of a learner, trained alike; a first stage that options leave as it is is trained once and shared."""
        kind = REGISTRY[learner]
        sampler = UniformSampler(self.buffer, self.train_rows if learner == "bc" else self._followed, seed)
        two_stages = "stage_one_updates" in kind.config_type.__dataclass_fields__
        half = updates // 2 if two_stages else 0
        stages: dict[Any, dict[str, Any]] = {}
        for option in options:
            more = {"stage_one_updates": half} if two_stages else {}
            one = kind(kind.config_type(actor=ACTOR, **more, **option), self.task, seed)
            metrics: Mapping[str, Any] = {}
            # imitation is part of the auxiliaries' losses; a clone has none
            same = option.get("imitation") if hasattr(one, "auxiliaries") else None
            shared = stages.get(same)
            if shared is not None:
                own = {name: value for name, value in one.state_dict().items() if name == "multipliers"}
                one.load_state_dict({**deepcopy(shared), **deepcopy(own)})
            for k in range(0 if shared is None else half, updates):
                metrics = one.update(sampler.sample(BATCH, k)).metrics
                if k + 1 == half:
                    stages[same] = deepcopy(dict(one.state_dict()))
            aux: Sequence[Any] = one.auxiliaries() if hasattr(one, "auxiliaries") else ()
            yield Trained(option, _items(one.policy()), tuple(aux), {name: float(x) for name, x in metrics.items()})

    def as_query(self, learner: str, temperatures: Sequence[float], updates: int, seed: int) -> Iterator[Trained]:
        """A learner of vectors: its action is matched with item vectors, items are drawn by the softmax of the products."""
        kind, vectors = REGISTRY[learner], self.vectors
        two_stages = "stage_one_updates" in kind.config_type.__dataclass_fields__
        # the others know one signal
        objective = self.objective if two_stages else Objective(self.objective.main)
        buffer = LoggedBuffer(
            self.log, objective, history=HISTORY, session_rule=self.session_rule, encode_action=lambda user, item: vectors[item]
        )
        spec = ActionSpec("embedding", (self.vectors.shape[1],))
        more = {"stage_one_updates": updates // 2} if two_stages else {}
        one: Learner = kind(kind.config_type(actor=ACTOR, **more), replace(self.task, action_spec=spec, objective=objective), seed)
        sampler = UniformSampler(buffer, self._followed, seed)
        metrics: Mapping[str, Any] = {}
        for k in range(updates):
            metrics = one.update(sampler.sample(BATCH, k)).metrics
        policy: Any = one.policy()
        for temperature in temperatures:
            items = ItemPolicy(QueryScores(policy), self.task.action_spec, temperature)
            yield Trained({"temperature": temperature}, items, (), {name: float(x) for name, x in metrics.items()})


def _items(policy: Any) -> ItemPolicy:
    assert isinstance(policy, ItemPolicy)
    return policy


def qualified(judged: Sequence[Judged], logged: Judged) -> list[int]:
    """Options with at least :data:`LEAST_SHARE` of the rows effective (capped weights)."""
    return [k for k, one in enumerate(judged) if effective_share(one, logged) >= LEAST_SHARE]


def chosen(judged: Sequence[Judged], logged: Judged, bound: Literal["value", "upper"] = "upper") -> int:
    """Which option of a method, by capped NCIS on validation rows alone: of those :func:`qualified`, the most watch time among those that
    keep what is protected, else the one that loses the least. Where none is qualified, the one with the most effective rows.

    Args:
        judged: estimates of each option.
        logged: those of the log.
        bound: what must reach the log's level: the ``upper`` end of the interval, so that only a loss beyond it counts, or the ``value``.
    """
    able = qualified(judged, logged)
    if not able:
        return max(range(len(judged)), key=lambda k: effective_share(judged[k], logged))
    share = {k: min(judged[k][s]["ncis"][bound] / max(logged[s]["ncis"]["value"], 1e-12) for s in PROTECTED) for k in able}
    keep = [k for k in able if share[k] >= 1.0]
    return max(keep, key=lambda k: judged[k]["watch_seconds"]["ncis"]["value"]) if keep else max(able, key=lambda k: share[k])
