"""A/B test of policies in a fitted simulator, under each assumed effect of satisfaction on return."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from recrl.core.config import to_dict
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.files import read_json, write_json
from recrl.core.runs import RunFolder
from recrl.pipeline.policies import fingerprint
from recrl.pipeline.setting import Setting
from recrl.pipeline.shards import EngineOptions, simulate_in_shards
from recrl.pipeline.simulate import platform_world, simulator_hash
from recrl.policies.gaussian import AnyVectorPolicy
from recrl.policies.items import ItemPolicy, item_spec
from simulators.ab import METRICS, Design, Experiment, ExperimentResult, Facts, Groups
from simulators.ab.statistics import Effect
from simulators.ab.uncertainty import uncertainty_table
from simulators.config import Scenario, WorldAction, WorldConfig
from simulators.fit import FittedWorld

_ACTIVITY = "activity group"


@dataclass(frozen=True)
class CompareConfig:
    """Size and assumptions of an A/B test.

    Attributes:
        users: simulated users an arm.
        days: simulated days.
        slate: items a request shows.
        pool: candidates of a request, drawn anew for each.
        paired: the same users and noise in every arm; otherwise users are randomised to arms.
        scenarios: assumed effects of satisfaction on return, each simulated: `fitted`, `weak`, `strong`.
        level: nominal coverage of the intervals.
        pre_days: days that users of unpaired arms live under the baseline first: the covariates of CUPED.
        segments: user features to break effects down by, beside the simulator's activity groups.
        provider: item feature, such as an author or a category, whose exposure is reported.
    """

    users: int = 2_000
    days: int = 14
    slate: int = 6
    pool: int = 100
    paired: bool = True
    scenarios: tuple[Scenario, ...] = ("strong",)
    level: float = 0.95
    pre_days: int = 0
    segments: tuple[str, ...] = ()
    provider: str = ""

    def __post_init__(self) -> None:
        for name in ("users", "days", "slate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1", where=f"--{name}")
        if self.pool < self.slate:
            raise ConfigError(f"a pool of {self.pool} cannot fill a slate of {self.slate}", where="--pool", mend="raise --pool")
        if not self.scenarios:
            raise ConfigError("no scenario", where="--scenarios", mend="name at least one of fitted, weak, strong")
        if self.pre_days and self.paired:
            what = "paired arms gain nothing from days before the experiment"
            raise ConfigError(what, where="--pre-days", mend="leave it at 0, or add --no-paired")


def compare(
    setting: Setting,
    fitted: FittedWorld,
    policies: Mapping[str, ItemPolicy | AnyVectorPolicy],
    baseline: str,
    config: CompareConfig,
    run: RunFolder,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
    members: Sequence[FittedWorld] = (),
    engine: EngineOptions = EngineOptions(),  # noqa: B008 - frozen
) -> dict[str, pa.Table]:
    """Run each scenario and write the tables of :data:`simulators.ab.results.SCHEMAS` and ``ab_uncertainty``.

    Every arm shows slates from the same pools to the same users. Policies over items draw them; a policy of vectors acts
    deterministically, and the platform ranks by its vector. What each user did lies in ``artifacts/ab_users/<scenario>``, by which an
    interrupted test goes on. ``members`` are simulators fitted to bootstraps of the log's users, each simulated too.

    **Errors**: :class:`ConfigError` for fewer than two arms, an unknown baseline or feature.
    """
    facts = facts_of(setting, fitted, config)
    arms = _Arms(setting, policies, baseline, config, seed, device)
    work = [(scenario, k) for scenario in config.scenarios for k in range(len(members) + 1)]
    tables: list[dict[str, pa.Table]] = []
    effects: dict[str, list[list[tuple[str, str, Effect]]]] = {}
    eta: dict[str, float] = {}
    for number, (scenario, k) in enumerate(work):
        started = time.perf_counter()
        simulator = members[k - 1] if k else fitted
        experiment = arms.experiment(simulator, scenario, facts if k == 0 else Facts())
        folder = run.artifact(f"ab_users/{scenario}" if k == 0 else f"ab_users/{scenario}-member-{k - 1:03d}")
        _claim(folder, experiment.design, simulator, policies, config)
        report = None if progress is None else partial(_within, progress, number, len(work))
        users = simulate_in_shards(experiment, folder, engine, report)
        result = experiment.result(users, time.perf_counter() - started)
        if k == 0:
            tables.append(result.tables())
            eta[scenario] = experiment.design.eta
        else:
            effects.setdefault(scenario, []).append(_effects(result))
    joined = {name: pa.concat_tables([found[name] for found in tables]) for name in tables[0]}
    joined["ab_uncertainty"] = uncertainty_table(joined["ab_metrics"].to_pylist(), effects, eta)
    for name, table in joined.items():
        run.write_table(name, table)
    return joined


def facts_of(setting: Setting, fitted: FittedWorld, config: CompareConfig) -> Facts:
    """What guardrails and segments are made from: exposures of the log, item vectors, and the features that ``config`` names.

    **Errors**: :class:`ConfigError` for a feature that the store does not have.
    """
    segments = {name: Groups.of(_column(setting.store.users, name, "--segments")) for name in config.segments}
    if fitted.retention.group_names:
        segments = {_ACTIVITY: Groups(fitted.groups, fitted.retention.group_names), **segments}
    provider = _column(setting.store.items, config.provider, "--provider") if config.provider else None
    return Facts(
        exposures=fitted.exposures,
        vectors=setting.item_vectors.cpu().numpy(),
        providers=None if provider is None else Groups.of(provider),
        segments=segments,
    )


def _column(frame: pl.DataFrame, name: str, option: str) -> np.ndarray:
    if name not in frame.columns:
        known = ", ".join(frame.columns[2:]) or "none"
        raise ConfigError(f"no feature {name!r}", where=option, mend=f"choose from: {known}")
    column = frame[name]
    # of several values, such as genres, the first stands for all
    return (column.list.first() if isinstance(column.dtype, pl.List) else column).to_numpy()


@dataclass(frozen=True, eq=False)
class _Arms:
    """Policies, and the worlds that they act in."""

    setting: Setting
    policies: Mapping[str, ItemPolicy | AnyVectorPolicy]
    baseline: str
    config: CompareConfig
    seed: int
    device: str

    def experiment(self, fitted: FittedWorld, scenario: Scenario, facts: Facts) -> Experiment:
        """The experiment in one simulator under one scenario."""
        config, kinds = self.config, {name: _kind(policy) for name, policy in self.policies.items()}
        options = WorldConfig(
            slate_size=config.slate, pool_size=config.pool, horizon_days=config.days, scenario=scenario, truth=False, action_kind="slate"
        )
        worlds = {
            kind: platform_world(self.setting, fitted, replace(options, action_kind=kind), self.device)
            for kind in {"slate", *kinds.values()}
        }
        spec = item_spec(worlds["slate"].n_items, config.slate, pool=True)
        design = Design(
            users=config.users,
            days=config.days,
            paired=config.paired,
            seed=self.seed,
            baseline=self.baseline,
            level=config.level,
            deterministic=tuple(name for name, kind in kinds.items() if kind != "slate"),
            pre_days=config.pre_days,
            eta_scenario=scenario,
            eta=worlds["slate"].retention.eta_s,
        )
        arms = {name: (p.with_spec(spec) if isinstance(p, ItemPolicy) else p).to(self.device) for name, p in self.policies.items()}
        return Experiment({name: worlds[kind] for name, kind in kinds.items()}, arms, design, facts)


def _kind(policy: ItemPolicy | AnyVectorPolicy) -> WorldAction:
    if isinstance(policy, ItemPolicy):
        return "slate"
    return "embedding" if policy.action_spec.kind == "embedding" else "fusion_weights"


def _claim(
    folder: Path, design: Design, fitted: FittedWorld, policies: Mapping[str, ItemPolicy | AnyVectorPolicy], config: CompareConfig
) -> None:
    """Make ``folder`` the place of this experiment's users; those of another one go."""
    with tempfile.TemporaryDirectory() as saved:
        fitted.save(saved)
        simulator = simulator_hash(Path(saved))
    asked = {
        "design": to_dict(design),
        "options": to_dict(config),
        "policies": {name: fingerprint(policy) for name, policy in policies.items()},
        "simulator": simulator,
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    card = folder / "experiment.json"
    if card.is_file() and read_json(card) == {"key": key}:
        return
    if folder.exists():
        shutil.rmtree(folder)
    write_json(card, {"key": key})


def _effects(result: ExperimentResult) -> list[tuple[str, str, Effect]]:
    found = ((metric, arm, result.effect_of(metric, arm)) for metric in METRICS for arm in result.treated)
    return [(metric.name, arm, effect) for metric, arm, effect in found if effect is not None]


def _within(progress: Progress, k: int, count: int, done: float, text: str) -> None:
    progress((k + done) / count, text)
