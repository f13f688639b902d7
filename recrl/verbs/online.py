"""``recrl online``: a learner that acts, on simulated users or in a control task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import tyro

from recrl.console import Talk, sparkline
from recrl.core.config import to_dict
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.learn import policy_folder, stream_of
from recrl.pipeline.online import (
    OFFLINE_ONLY,
    BufferConfig,
    OnlineAction,
    OnlinePlan,
    TaskConfig,
    UsersConfig,
    learn_from_task,
    learn_from_users,
    users_world,
)
from recrl.pipeline.runs import final_metrics, read_metrics
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import load_simulator, simulator_hash
from recrl.training.online import OnlineConfig
from recrl.verbs.learners import learner_options
from recrl.verbs.seeds import RunOptions, over_all_seeds

if TYPE_CHECKING:
    Learners = Any
else:
    Learners = learner_options("Learners", __name__, OFFLINE_ONLY)


@dataclass(frozen=True)
class OnlineOptions:
    """One learner that acts: on simulated users, or with `--env` in a control task.

    Attributes:
        algorithm: a learner: `td3`, `td3_bc`, `tscac`, ...: each has its options below.
        action: what it decides about users: an item embedding, fusion weights over predicted behaviours, or the one item of a request,
            from the whole catalogue (`--slate` and `--pool` have no say then).
        simulator: run that holds a fitted simulator (`recrl simulate fit`); default `simulator-<data>`.
        data: the log that the simulator was fitted to; item vectors and predicted behaviours come from its training part.
        users: the simulated users.
        task: the control task.
        online: length and portions of training.
        buffer: what is remembered.
        discount: of later rewards, within sessions and across them.
        temperature: spread of the item choice of the saved policy.
        constraints: responses to protect, for learners that do: `like>=0.2`, `hate<=0.001` (bounds on the mean a request), or `like`
            without a bound; `@0.9` behind it is its own discount.
        learners: options of the learners.
        how: seeds, device and place; the default name of the run is `online-<algorithm>-<action>-<data>-seed<seed>`.
    """

    algorithm: Annotated[str, tyro.conf.Positional] = "td3"
    action: OnlineAction = "embedding"
    simulator: Path | None = None
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    users: Annotated[UsersConfig, tyro.conf.arg(name="")] = UsersConfig()
    task: Annotated[TaskConfig, tyro.conf.arg(name="")] = TaskConfig()
    online: Annotated[OnlineConfig, tyro.conf.arg(name="")] = OnlineConfig()
    buffer: BufferConfig = BufferConfig()
    discount: float = 0.99
    temperature: float = 0.1
    constraints: tuple[str, ...] = ()
    learners: Annotated[Learners, tyro.conf.arg(name="")] = Learners()
    how: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()

    @property
    def plan(self) -> OnlinePlan:
        """What is trained; an unknown name has no options, and :class:`OnlinePlan` refuses it."""
        chosen = getattr(self.learners, self.algorithm, None)
        return OnlinePlan(
            self.algorithm, self.action, self.online, chosen, self.buffer, self.discount, self.temperature, constraints=self.constraints
        )

    @property
    def name(self) -> str:
        """Name of the policy and of its metric stream."""
        return f"{self.algorithm}-{self.task.env.replace('/', '-') or self.action}"


def online(options: OnlineOptions, talk: Talk) -> int:
    """Train, save the policy, print the curve of returns."""
    options.how.checked()
    name = options.plan.algorithm
    if options.task.env and options.simulator is not None:
        raise ConfigError(f"{name} cannot learn from two things at once", where="--simulator, --env", mend="give one of them")
    if not options.task.env:
        # once, before several processes want it
        load_simulator(options.simulator, options.how.runs, load_store(options.data, talk.progress("prepare")))
    if options.how.seeds > 1:
        return over_all_seeds(online_one, options, talk)
    result = online_one(options, talk.progress(options.name))
    talk.close()
    _show(result, talk)
    talk.result(result)
    return 0


def online_one(options: OnlineOptions, progress: Progress) -> dict[str, Any]:
    """Train one seed."""
    started = time.perf_counter()
    run, told = (_in_task if options.task.env else _on_users)(options, progress)
    curve = read_metrics(run, stream_of(options.name)).filter(pl.col("name") == "eval_return")
    return {
        "run": str(run.path),
        "policy": str(policy_folder(run, options.name)),
        "steps": options.online.steps,
        "seconds": time.perf_counter() - started,
        **told,
        "final": final_metrics(run, stream_of(options.name)),
        "curve": [{"step": step, "eval_return": value} for step, value in curve.select("step", "value").iter_rows()],
    }


def _on_users(options: OnlineOptions, progress: Progress) -> tuple[RunFolder, dict[str, Any]]:
    how, plan, device = options.how, options.plan, options.how.checked()
    store = load_store(options.data)
    folder, fitted = load_simulator(options.simulator, how.runs, store)
    setting = Setting(store, options.data)
    world = users_world(setting, fitted, plan, options.users, device)
    run = RunFolder.create(
        how.runs / (how.run or f"online-{options.name}-{store.name}-seed{how.seed}"),
        kind="online",
        config={
            **options.data.asked(store),
            "learner": plan.as_dict(),
            "simulator": simulator_hash(folder),
            "users": to_dict(options.users),
        },
        seed=how.seed,
        data_hash=store.manifest.content_hash,
        device=device,
    )
    with run.running():
        report = run.heartbeats(progress)
        learn_from_users(
            setting, world, plan, options.users, run, options.name, seed=how.seed, progress=report, tensorboard=how.tensorboard
        )
    scenario, eta = options.users.scenario, world.retention.eta_s
    note = f"scenario {scenario}: satisfaction's effect on return assumed as eta_s = {eta:g}"
    return run, {"scenario": scenario, "eta_s": eta, "note": note}


def _in_task(options: OnlineOptions, progress: Progress) -> tuple[RunFolder, dict[str, Any]]:
    how, plan, device = options.how, options.plan, options.how.checked()
    run = RunFolder.create(
        how.runs / (how.run or f"online-{options.name}-seed{how.seed}"),
        kind="online",
        config={"learner": plan.as_dict(), "task": to_dict(options.task)},
        seed=how.seed,
        device=device,
    )
    with run.running():
        report = run.heartbeats(progress)
        learn_from_task(options.task, plan, run, options.name, seed=how.seed, device=device, progress=report, tensorboard=how.tensorboard)
    return run, {"env": options.task.env}


def _show(result: dict[str, Any], talk: Talk) -> None:
    if "note" in result:
        talk.say(result["note"])
    curve = result["curve"]
    values = [point["eval_return"] for point in curve]
    if curve:
        talk.say(f"return by step   {sparkline(values, 60)}   {values[0]:.4g} at step {curve[0]['step']:,}, {values[-1]:.4g} at the end")
    evaluated = {name: value for name, value in result["final"].items() if name.startswith("eval_")}
    talk.table("After the last step", ["metric", "value"], [[name, f"{value:.5g}"] for name, value in evaluated.items()])
    talk.say(f"policy: {result['policy']}\nrun:    {result['run']}")
