"""``recrl ope``: off-policy estimates of policies on the test part of a log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from offline_eval import needs, resolve
from recrl.console import Talk, stages_of
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.estimate import estimate
from recrl.pipeline.learn import LearnConfig, learn
from recrl.pipeline.policies import BASELINES, fingerprint, named_policies, over_items
from recrl.pipeline.setting import Setting
from recrl.training.offline import OfflineConfig


@dataclass(frozen=True)
class OpeOptions:
    """Policies of a run on the test part of a log.

    Attributes:
        source: a run folder with policies, or a saved policy; `popularity` and `random` are always estimated beside them.
        data: the log.
        estimators: names of estimators.
        level: nominal coverage of the intervals.
        behaviour_steps: training steps of the estimated logging policy.
        seed: of the estimated logging policy.
        device: `auto`, `cpu` or `cuda`.
        runs: where runs live.
        run: name of the run that holds the estimates; default `ope-<source>`.
    """

    source: Annotated[Path, tyro.conf.Positional]
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    estimators: tuple[str, ...] = ("ips", "snips", "ncis")
    level: float = 0.95
    behaviour_steps: int = 1_500
    seed: int = 0
    device: str = "cpu"
    runs: Path = Path("runs")
    run: str = ""


def ope(options: OpeOptions, talk: Talk) -> None:
    """Estimate, write the tables, print them."""
    device = resolve_device(options.device)
    store = load_store(options.data, talk.progress("prepare"))
    setting = Setting(store, options.data)
    policies = over_items(named_policies([*BASELINES, options.source], setting, runs=options.runs))
    if not 0.0 < options.level < 1.0:
        raise ConfigError(f"level={options.level}", where="--level", mend="give a coverage between 0 and 1, for example 0.95")
    for estimator in options.estimators:
        if missing := needs(resolve(estimator)):
            raise ConfigError(
                f"{estimator} needs {' and '.join(sorted(missing))}, which this verb does not make",
                where="--estimators",
                mend="use offline_eval from Python for it, or estimators of weights alone, e.g. snips",
            )
    asked = {
        **options.data.asked(store),
        "policies": {name: fingerprint(policy) for name, policy in policies.items()},
        "estimators": list(options.estimators),
        "level": options.level,
        "behaviour_steps": options.behaviour_steps,
    }
    run = RunFolder.create(
        options.runs / (options.run or f"ope-{options.source.name}"),
        kind="ope",
        config=asked,
        seed=options.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    with run.running():
        cloned = LearnConfig("bc", "item", OfflineConfig(steps=options.behaviour_steps), label="logging-policy")
        stage = stages_of(run, talk)
        behaviour = learn(setting, cloned, run, seed=options.seed, device=device, progress=stage("logging policy", 0.0, 0.5))
        result = estimate(
            setting,
            policies,
            behaviour,
            run,
            estimators=options.estimators,
            level=options.level,
            device=device,
            progress=stage("estimate", 0.5, 1.0),
        )
    talk.close()
    print_estimates(result.estimates.to_pylist(), talk, options.data.signal)
    talk.say(f"{setting.known_test_share:.0%} of the test rows are of users seen in training")
    talk.say(f"run: {run.path}")
    talk.result({"run": str(run.path), "known_test_share": setting.known_test_share, "estimates": result.estimates.to_pylist()})


def print_estimates(rows: list[dict[str, object]], talk: Talk, signal: str) -> None:
    """The main columns of the `estimates` table, for the signal that was optimised; the run holds the others."""
    columns = ["policy", "estimator", "value", "lower", "upper", "ess", "verdict"]
    shown = [[f"{row[c]:.4g}" if isinstance(row[c], float) else f"{row[c]}" for c in columns] for row in rows if row["signal"] == signal]
    talk.table(f"Off-policy estimates of {signal}", columns, shown)
    others = sorted({str(row["signal"]) for row in rows} - {signal})
    if others:
        talk.say(f"also estimated, in the run: {', '.join(others)}")
