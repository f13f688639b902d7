"""``recrl prefer``: somebody, or a script, says which of two users' timelines is better; ``recrl prefer train`` learns from it."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from recrl.algorithms.prefrec import PrefRecConfig
from recrl.console import Talk
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.pipeline.data import DataOptions, load_store
from recrl.pipeline.learn import policy_folder
from recrl.pipeline.prefer import (
    PREFERENCES,
    LabelConfig,
    Labelling,
    Lives,
    PreferPlan,
    ask,
    label_by_teacher,
    learn_preferences,
    lives_of_log,
    simulated_lives,
)
from recrl.pipeline.setting import Setting
from recrl.preferences.pairs import Pairs
from recrl.preferences.reward import RewardConfig
from recrl.preferences.teacher import Teacher
from recrl.training.offline import OfflineConfig
from recrl.verbs.seeds import RunOptions, over_all_seeds

_ANSWERS: dict[str, float | None] = {"1": 1.0, "2": 0.0, "=": 0.5, "s": None}
_HELP = "1 or 2: that one is better   =: equal   s: skip   u: undo   q: stop here"


@dataclass(frozen=True)
class PreferOptions:
    """Pairs of session timelines to label.

    Attributes:
        data: the log; its training part is shown.
        simulated: show so many simulated users of the reference environment instead of a log.
        label: how many pairs, and how timelines are cut.
        by: who answers: a `person` at this terminal, or a scripted teacher who wants `depth` of sessions, early `return`, or `both`.
        teacher: how a scripted teacher errs.
        seed: of the pairs and their order.
        runs: where runs live.
        run: name of the run; the same command goes on where labelling was stopped.
    """

    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    simulated: int = 0
    label: Annotated[LabelConfig, tyro.conf.arg(name="")] = LabelConfig()
    by: Literal["person", "depth", "return", "both"] = "person"
    teacher: Teacher = Teacher()
    seed: int = 0
    runs: Path = Path("runs")
    run: str = ""

    def __post_init__(self) -> None:
        if self.simulated < 0:
            raise ConfigError(f"simulated={self.simulated} is negative", where="--simulated", mend="give a number of users, or 0 for a log")


def prefer(options: PreferOptions, talk: Talk) -> int:
    """Label pairs; every answer is on disk before the next question."""
    lives, source, data_hash = _lives(options.data, options.simulated, options.seed, "cpu", talk.progress("prepare"))
    run = RunFolder.create(
        options.runs / (options.run or f"preferences-{source['data']}-seed{options.seed}"),
        kind="preferences",
        config={**source, "label": asdict(options.label), "by": options.by, "teacher": asdict(options.teacher)},
        seed=options.seed,
        data_hash=data_hash,
    )
    with run.running():
        labelling = Labelling(run.artifact(PREFERENCES), options.label.draw(lives, options.seed))
        if options.by != "person":
            if labelling.next is not None:
                label_by_teacher(lives, options.label, labelling, options.by, options.teacher, options.seed)
        else:
            _by_person(lives, labelling, run, talk)
        left = len(labelling.pairs) - labelling.answered
        if left:
            done = labelling.answered / len(labelling.pairs)
            run.set_status("stopped", done=done, message=f"{left} pairs left; the same command goes on")
    labels = labelling.pairs.preferred[: labelling.answered]
    given = labels[labels == labels]
    counts = {"first": int((given == 1.0).sum()), "second": int((given == 0.0).sum()), "equal": int((given == 0.5).sum())}
    talk.close()
    skipped = labelling.answered - len(given)
    talk.say(f"{len(given)} labelled, {skipped} skipped, {left} left: {run.artifact(PREFERENCES)}")
    data = "" if options.simulated else f" --data {options.data.data}"
    talk.say(f"learn from them: recrl prefer train {run.path}{data}")
    talk.result({"run": str(run.path), "pairs": len(labelling.pairs), "labelled": len(given), "skipped": skipped, "left": left, **counts})
    return 0


def _by_person(lives: Lives, labelling: Labelling, run: RunFolder, talk: Talk) -> None:
    talk.say(_HELP)
    shown = -1
    while (index := labelling.next) is not None:
        if index != shown:
            talk.say("\n" + "\n".join(ask(lives, labelling.pairs, index)))
            shown = index
        print("better? ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        reply = line.strip().lower()
        if not line or reply == "q":
            return
        if reply == "u":
            if not labelling.undo():
                talk.say("nothing to undo")
        elif reply in _ANSWERS:
            labelling.answer(_ANSWERS[reply])
            run.set_status("running", stage="labelling", done=labelling.answered / len(labelling.pairs))
        else:
            talk.say(_HELP)


@dataclass(frozen=True)
class PreferTrainOptions:
    """A reward and a policy from labelled pairs.

    Attributes:
        labels: the run of `recrl prefer` that holds them.
        data: the log they are of; without effect on simulated users.
        prefrec: options of the policy's learner.
        reward: options of the learned reward; its encoder is the policy's.
        offline: length and portions of the policy's training.
        temperature: spread of the item choice of the saved policy (logs only).
        how: seeds, device and place; the default name of the run is `prefrec-<labels>-seed<seed>`.
    """

    labels: Annotated[Path, tyro.conf.Positional]
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions()
    prefrec: PrefRecConfig = PrefRecConfig()
    reward: RewardConfig = RewardConfig()
    offline: Annotated[OfflineConfig, tyro.conf.arg(name="")] = OfflineConfig()
    temperature: float = 0.1
    how: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()

    @property
    def plan(self) -> PreferPlan:
        """What is learned."""
        return PreferPlan(self.prefrec, self.reward, self.offline, self.temperature)


def train_preferences(options: PreferTrainOptions, talk: Talk) -> int:
    """Learn reward and policy; print what the reward knows and where the policy lies."""
    options.how.checked()
    RunFolder.open(options.labels)
    if options.how.seeds > 1:
        return over_all_seeds(train_one, options, talk)
    result = train_one(options, talk.progress("prefrec"))
    talk.close()
    rows = [[kind, f"{right:.3f}"] for kind, right in result["accuracy"].items()]
    which = "held-out pairs" if result["held_out"] else "the pairs it was trained on: too few were held out"
    talk.table(f"What the reward knows of {result['judged_pairs']} {which}", ["pairs", "share right"], rows)
    talk.say(f"share of the reward's variance that is about the action: {result['action_share']:.1%}")
    if result["too_little_action"]:
        talk.warn("below 0.5 % a policy has nothing to learn: label more pairs of one user (--within), or other timelines")
    for name, found in result.get("simulated", {}).items():
        talk.say(f"{name}: {found['session_depth']:.2f} requests a session, back after {found['return_gap_days']:.2f} days")
    talk.say(f"policy: {result['policy']}\nrun:    {result['run']}")
    talk.result(result)
    return 0


def train_one(options: PreferTrainOptions, progress: Progress) -> dict[str, Any]:
    """Train one seed."""
    how, device = options.how, options.how.checked()
    labels = RunFolder.open(options.labels)
    asked = labels.config
    if asked.get("kind") != "preferences":
        raise ConfigError(f"{labels.name} holds no labelled pairs", where="labels", mend="give a run of `recrl prefer`")
    lives, source, data_hash = _lives(options.data, int(asked["simulated"]), int(asked["seed"]), device, progress, options.prefrec)
    if changed := [name for name, value in source.items() if asked.get(name) != value]:
        raise ConfigError(
            f"the labels are of other data: {', '.join(changed)} differ",
            where="--data",
            mend=f"give the options they were labelled with: {', '.join(f'{name} {asked.get(name)}' for name in changed)}",
        )
    pairs, notes = Pairs.read(labels.artifact(PREFERENCES))
    run = RunFolder.create(
        how.runs / (how.run or f"prefrec-{labels.name}-seed{how.seed}"),
        kind="train",
        config={**source, "labels": labels.name, "answered": int(notes["answered"]), "learner": options.plan.as_dict()},
        seed=how.seed,
        data_hash=data_hash,
        device=device,
    )
    started = time.perf_counter()
    with run.running():
        found = learn_preferences(lives, pairs, options.plan, run, seed=how.seed, progress=run.heartbeats(progress))
    where = {"run": str(run.path), "policy": str(policy_folder(run, options.plan.name)), "seconds": time.perf_counter() - started}
    # what several seeds are summed up by
    final = {f"accuracy {kind}": right for kind, right in found["accuracy"].items()} | {"action_share": found["action_share"]}
    return {**where, **found, "final": final}


def _lives(
    data: DataOptions, simulated: int, seed: int, device: str, progress: Progress, prefrec: PrefRecConfig | None = None
) -> tuple[Lives, dict[str, Any], str]:
    """Trajectories, what decides them (for a run's configuration), and the hash of their data."""
    if simulated:
        return simulated_lives(simulated, seed, device), {"data": "simulated", "simulated": simulated}, f"prefrec-{simulated}-{seed}"
    store = load_store(data, progress)
    setting = Setting(store, data)
    history = (prefrec or PrefRecConfig()).actor.encoder.history
    # what is rewarded is what is preferred: the signal of a log does not matter here
    source = {**{name: value for name, value in data.asked(store).items() if name != "signal"}, "simulated": 0}
    return lives_of_log(setting, device, history=history), source, store.manifest.content_hash
