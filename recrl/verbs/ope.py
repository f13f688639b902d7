"""``recrl ope``: off-policy estimates of policies on the test part of a log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow.parquet as pq
import tyro

from offline_eval import needs, resolve
from recrl.console import Talk, stages_of
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.estimate import EstimateConfig, estimate, states_propensities
from recrl.pipeline.learn import clone_logging_policy
from recrl.pipeline.policies import BASELINES, fingerprint, named_policies, over_items
from recrl.pipeline.setting import Setting


@dataclass(frozen=True)
class OpeOptions:
    """Policies of a run on the test part of a log.

    Attributes:
        source: a run folder with policies, or a saved policy; `popularity` and `random` are always estimated beside them.
        data: the log.
        estimators: names of estimators; those of sequences (`pdis`, `seq_dr`, ...) estimate the value of a session, those that
            need predictions get them from behaviours predicted on training rows.
        level: nominal coverage of the intervals.
        draws: items drawn from each policy a row, for predictions, overlap and reliability; 0 leaves all of them out.
        retention_days: also estimate the share of users back within so many days, with censoring accounted for.
        propensities: `logged` are those of the log's column, `estimated` those of a clone of the logging policy; `auto` reads the column
            where there is one and its probabilities are over the whole catalogue.
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
    draws: int = 8
    retention_days: tuple[int, ...] = ()
    propensities: Literal["auto", "logged", "estimated"] = "auto"
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
        if "predictions" in needs(resolve(estimator)) and options.draws < 1:
            raise ConfigError(f"{estimator} needs predictions, and so drawn items", where="--draws", mend="give 8 or more")
    if options.draws < 0 or any(day < 1 for day in options.retention_days):
        found = f"draws={options.draws}, retention_days={list(options.retention_days)}"
        raise ConfigError(found, where="recrl ope", mend="draws count from 0, days from 1")
    stated = states_propensities(setting.log)
    if options.propensities == "logged" and not stated:
        why = "its propensities are within pools of candidates" if setting.log.has("propensity") else "it has no column `propensity`"
        raise ConfigError(f"{store.name}: {why}", where="--propensities", mend="give `estimated`")
    logged = stated and options.propensities != "estimated"
    config = EstimateConfig(options.estimators, options.level, options.draws, options.retention_days, options.seed)
    asked = {
        **options.data.asked(store),
        "policies": {name: fingerprint(policy) for name, policy in policies.items()},
        "estimators": list(options.estimators),
        "level": options.level,
        "draws": options.draws,
        "retention_days": list(options.retention_days),
        "behaviour_steps": None if logged else options.behaviour_steps,
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
        stage = stages_of(run, talk)
        behaviour = None
        if not logged:
            report = stage("logging policy", 0.0, 0.5)
            behaviour = clone_logging_policy(setting, options.behaviour_steps, run, seed=options.seed, device=device, progress=report)
        result = estimate(
            setting,
            policies,
            behaviour,
            run,
            config=config,
            device=device,
            progress=stage("estimate", 0.0 if logged else 0.5, 1.0),
        )
    talk.close()
    print_estimates(result.estimates.to_pylist(), talk, options.data.signal)
    unseen = unseen_rows(setting)
    talk.say(f"propensities: {'the log states them' if logged else 'of an estimated logging policy'}")
    talk.say(f"of {unseen['rows']} test rows, {unseen['user_rows']} are of unseen users and {unseen['item_rows']} of unseen items")
    told: dict[str, Any] = {
        "run": str(run.path),
        "known_test_share": setting.known_test_share,
        "unseen": unseen,
        "propensities": "logged" if logged else "estimated",
        "estimates": result.estimates.to_pylist(),
    }
    if options.draws:
        for name in ("overlap", "cohorts") if logged else ("reliability", "overlap", "cohorts"):
            told[name] = pq.read_table(run.path / "artifacts" / f"estimates_{name}.parquet").to_pylist()
        holes = [f"{row['policy']}: {BANDS[row['group']]}" for row in told["overlap"] if row["hole"]]
        talk.say("overlap holes: " + ("; ".join(holes) or "none"))
        off = [row for row in told.get("reliability", []) if abs(row["ratio"] - 1) > max(0.5, 3 * row["error"])]
        if off:
            talk.warn(f"the logging policy's propensities are off by more than half in {len(off)} of {len(told['reliability'])} bins")
    talk.say(f"run: {run.path}")
    talk.result(told)


BANDS = ("items never shown in training", *(f"fifth {k} of items by rows in training (5 the most shown)" for k in range(1, 6)))
"""What the groups of the table ``estimates_overlap`` are."""


def unseen_rows(setting: Setting) -> dict[str, int]:
    """Test rows, and those of users or items without a training row: what any policy scores from priors alone."""
    item, user = (setting.split.test.column(name) for name in ("item", "user"))
    trained = np.bincount(setting.split.train.column("item"), minlength=setting.log.n_items) > 0
    known = setting.split.train.user_offsets.lengths > 0
    return {"rows": int(item.size), "user_rows": int((~known[user]).sum()), "item_rows": int((~trained[item]).sum())}


def print_estimates(rows: list[dict[str, object]], talk: Talk, signal: str) -> None:
    """The main columns of the `estimates` table, for the signal that was optimised; the run holds the others."""
    columns = ["policy", "estimator", "value", "lower", "upper", "ess", "verdict"]
    shown = [[f"{row[c]:.4g}" if isinstance(row[c], float) else f"{row[c]}" for c in columns] for row in rows if row["signal"] == signal]
    talk.table(f"Off-policy estimates of {signal}", columns, shown)
    others = sorted({str(row["signal"]) for row in rows} - {signal})
    if others:
        talk.say(f"also estimated, in the run: {', '.join(others)}")
