"""``recrl sweep``: several learners, the same tuning budget for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from recrl.algorithms import REGISTRY
from recrl.console import Talk, stages_of
from recrl.core.config import to_dict
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.seeds import cores, over_seeds, raise_failed
from recrl.pipeline.setting import LogAction, Setting
from recrl.pipeline.sweep import Search, SweepConfig, conclude, fit_logging_policy, search
from recrl.training.offline import OfflineConfig
from recrl.verbs.seeds import RunOptions


@dataclass(frozen=True)
class SweepOptions:
    """Learners tuned on one log, each with as many trials of as many steps; the same command goes on where it was stopped.

    Attributes:
        learners: names of learners, the method and its baselines.
        action: what they decide: an item, an item embedding, or fusion weights over predicted behaviours.
        data: the log.
        offline: length of each trial's training.
        constraints: responses to protect: a trial that falls short of the bound (or of the logged mean) is not chosen.
        sweep: how much each learner may try, and how trials are judged.
        how: seed, device and place; `--jobs` learners at a time. The default name of the run is `sweep-<data>`.
    """

    learners: Annotated[tuple[str, ...], tyro.conf.Positional]
    action: LogAction = "embedding"
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    offline: Annotated[OfflineConfig, tyro.conf.arg(name="")] = OfflineConfig()
    constraints: tuple[str, ...] = ()
    sweep: Annotated[SweepConfig, tyro.conf.arg(name="")] = SweepConfig()
    how: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()


def sweep(options: SweepOptions, talk: Talk) -> None:
    """Search, choose on validation rows, judge once on test rows."""
    unknown = [name for name in options.learners if name not in REGISTRY]
    if unknown or not options.learners:
        what = f"unknown learner {unknown[0]!r}" if unknown else "no learner is named"
        raise ConfigError(what, where="recrl sweep", mend=f"choose of {', '.join(REGISTRY)}")
    how, device = options.how, resolve_device(options.how.device)
    if how.seeds > 1:
        raise ConfigError(
            f"seeds={how.seeds}", where="--seeds", mend="a sweep has one seed; compare its best options by `recrl train --seeds`"
        )
    store = load_store(options.data, talk.progress("prepare"))
    asked = {**options.data.asked(store), **to_dict(options.sweep), "offline": to_dict(options.offline), "action": options.action}
    asked |= {"learners": list(options.learners), "constraints": list(options.constraints)}
    run = RunFolder.create(
        how.runs / (how.run or f"sweep-{store.name}"),
        kind="sweep",
        config=asked,
        seed=how.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    setting, stage = Setting(store, options.data), stages_of(run, talk)
    with run.running():
        fit_logging_policy(setting, options.sweep, run, seed=how.seed, device=device, progress=stage("logging policy", 0.0, 0.1))
        _searched(options, run, device, talk)
        best, estimates = conclude(
            setting, options.learners, options.sweep, run, seed=how.seed, device=device, progress=stage("estimate", 0.9, 1.0)
        )
    talk.close()
    signal = options.data.signal
    judged = {row["policy"]: row for row in estimates if row["signal"] == signal and row["estimator"] == options.sweep.judge}
    rows = [
        [row["learner"], str(row["trial"]), f"{row['score']:.4f}", row["options"], *(f"{judged[row['learner']][c]:.4f}" for c in _SHOWN)]
        for row in best
    ]
    title = f"Best of {options.sweep.trials} trials by validation rows; {signal} by {options.sweep.judge} on test rows"
    talk.table(title, ["learner", "trial", "score", "options", *_SHOWN], rows)
    talk.say(f"run: {run.path}")
    talk.result({"run": str(run.path), "best": best, "estimates": list(judged.values())})


_SHOWN = ("value", "lower", "upper")


def _searched(options: SweepOptions, run: RunFolder, device: str, talk: Talk) -> None:
    how = options.how
    work = {
        k: Search(name, options.action, options.data, options.offline, options.sweep, options.constraints, run.path, how.seed, device)
        for k, name in enumerate(options.learners)
    }
    reporters = {k: talk.progress(one.learner) for k, one in work.items()}
    if len(work) == 1 or how.jobs == 1:
        for k, one in work.items():
            search(one, reporters[k])
        return
    results = over_seeds(search, work, how.jobs or cores(), lambda k, done, text: reporters[k](done, text))
    raise_failed(results, lambda k: options.learners[k])
