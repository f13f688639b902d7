"""A/B test of policies in a fitted simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import platform_world
from recrl.policies.gaussian import AnyVectorPolicy
from recrl.policies.items import ItemPolicy, item_spec
from simulators.ab import Design, run_experiment
from simulators.config import Scenario, WorldAction, WorldConfig
from simulators.fit import FittedWorld


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
    """

    users: int = 2_000
    days: int = 14
    slate: int = 6
    pool: int = 100
    paired: bool = True
    scenarios: tuple[Scenario, ...] = ("strong",)
    level: float = 0.95

    def __post_init__(self) -> None:
        for name in ("users", "days", "slate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1", where=f"--{name}")
        if self.pool < self.slate:
            raise ConfigError(f"a pool of {self.pool} cannot fill a slate of {self.slate}", where="--pool", mend="raise --pool")
        if not self.scenarios:
            raise ConfigError("no scenario", where="--scenarios", mend="name at least one of fitted, weak, strong")


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
) -> dict[str, pa.Table]:
    """Run each scenario and write ``ab_metrics``, ``ab_daily``, ``ab_retention`` and ``ab_design``.

    Every arm shows slates from the same pools to the same users. Policies over items draw them; a policy of vectors acts
    deterministically, and the platform ranks by its vector.

    **Errors**: :class:`ConfigError` for fewer than two arms or an unknown baseline.
    """
    found: list[dict[str, pa.Table]] = []
    kinds = {name: _kind(policy) for name, policy in policies.items()}
    for k, scenario in enumerate(config.scenarios):
        options = WorldConfig(
            slate_size=config.slate, pool_size=config.pool, horizon_days=config.days, scenario=scenario, truth=False, action_kind="slate"
        )
        worlds = {kind: platform_world(setting, fitted, replace(options, action_kind=kind), device) for kind in {"slate", *kinds.values()}}
        world = worlds["slate"]
        spec = item_spec(world.n_items, config.slate, pool=True)
        design = Design(
            users=config.users,
            days=config.days,
            paired=config.paired,
            seed=seed,
            baseline=baseline,
            level=config.level,
            deterministic=tuple(name for name, kind in kinds.items() if kind != "slate"),
            eta_scenario=scenario,
            eta=world.retention.eta_s,
        )
        report = None if progress is None else partial(_within, progress, k, len(config.scenarios))
        arms = {name: (p.with_spec(spec) if isinstance(p, ItemPolicy) else p).to(device) for name, p in policies.items()}
        found.append(run_experiment({name: worlds[kind] for name, kind in kinds.items()}, arms, design, progress=report).tables())
    tables = {name: pa.concat_tables([tables[name] for tables in found]) for name in found[0]}
    for name, table in tables.items():
        run.write_table(name, table)
    return tables


def _kind(policy: ItemPolicy | AnyVectorPolicy) -> WorldAction:
    if isinstance(policy, ItemPolicy):
        return "slate"
    return "embedding" if policy.action_spec.kind == "embedding" else "fusion_weights"


def _within(progress: Progress, k: int, count: int, done: float, text: str) -> None:
    progress((k + done) / count, text)
