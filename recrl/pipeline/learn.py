"""Train a learner or a supervised ranker on a log and save its policy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recrl.algorithms import REGISTRY
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.objective import Constraint
from recrl.core.runs import RunFolder
from recrl.pipeline.rank import RankConfig, learn_ranker
from recrl.pipeline.saved import policy_digest, saved_policy
from recrl.pipeline.setting import LogAction, Setting, check_source
from recrl.policies import AnyPolicy, load_policy
from recrl.policies.discrete import DiscretePolicy
from recrl.policies.fusion import FusionScores
from recrl.policies.items import ItemPolicy, QueryScores, item_spec, random_policy
from recrl.policies.two_stage import TwoStagePolicy
from recrl.rankers import RANKERS
from recrl.replay.samplers import UniformSampler
from recrl.training.offline import OfflineConfig, train_offline
from recrl.training.tensorboard import mirror

LOGGING = "logging-policy"
"""Name of the estimated logging policy in a run."""


@dataclass(frozen=True)
class LearnConfig:
    """One learner on one log.

    Attributes:
        algorithm: name in the registry of learners, or of a supervised ranker.
        action: what the learner decides: an item, an item embedding, or fusion weights.
        offline: length and portions of training.
        options: options of the learner that differ from its defaults.
        temperature: spread of the item choice of a vector learner, in units of its scores.
        candidates: run or saved policy whose highest scores name the items to choose from; empty for the whole catalogue.
        pool_size: how many it names.
        label: name of the policy and of its metric stream in place of ``<algorithm>-<action>``.
        constraints: responses to protect, as :meth:`recrl.core.objective.Constraint.parse` reads them.
    """

    algorithm: str = "td3_bc"
    action: LogAction = "embedding"
    offline: OfflineConfig = OfflineConfig()
    options: Any = None
    temperature: float = 0.1
    candidates: str = ""
    pool_size: int = 100
    label: str = field(default="")
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = (*REGISTRY, *RANKERS)
        if self.algorithm not in known:
            raise ConfigError(f"unknown algorithm {self.algorithm!r}", where="algorithm", mend=f"choose one of {', '.join(known)}")
        if self.constraints and (self.is_ranker or self.algorithm == "bc"):
            raise ConfigError(f"{self.algorithm} honours no constraints", where="--constraints", mend="leave them out")
        for text in self.constraints:
            Constraint.parse(text)
        if self.options is None:
            object.__setattr__(self, "options", RankConfig() if self.is_ranker else REGISTRY[self.algorithm].config_type())

    @property
    def is_ranker(self) -> bool:
        """Whether this is a supervised ranker, whose options are a :class:`recrl.pipeline.rank.RankConfig`."""
        return self.algorithm in RANKERS

    @property
    def name(self) -> str:
        """Name of the policy and of its metric stream."""
        base = self.algorithm if self.is_ranker else f"{self.algorithm}-{self.action}"
        return self.label or (f"{base}-two-stage" if self.candidates else base)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for a run's configuration."""
        generator = policy_digest(saved_policy(self.candidates, "--candidates")) if self.candidates else ""
        return {**asdict(self), "options": asdict(self.options), "candidates": generator}


def learn(
    setting: Setting,
    config: LearnConfig,
    run: RunFolder,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
    tensorboard: bool = False,
) -> ItemPolicy:
    """Train, save the policy under ``artifacts/policies/<name>`` and return it as a policy over items.

    A policy over items is what a log can judge and a simulator can show; a vector learner becomes one by ranking: items are drawn
    with probability proportional to ``exp(score / temperature)``, from those that ``config.candidates`` names, if it does.
    """
    generator = _generator(setting, config)
    if config.is_ranker:
        folder = policy_folder(run, config.name)
        policy = learn_ranker(setting, config.algorithm, config.options, run, folder, seed=seed, device=device, progress=progress)
        if tensorboard:
            mirror(run, stream_of(config.name))
    else:
        objective = setting.objective.protecting(config.constraints)
        learner = REGISTRY[config.algorithm](config.options, setting.task(config.action, device, objective), seed)
        buffer = setting.buffer(config.action, device, history=config.options.actor.encoder.history, objective=objective)
        # cloning needs no next state: it may learn from a user's last row too
        rows = buffer.rows_of(setting.split.train, with_next=config.algorithm != "bc")
        sampler, stream = UniformSampler(buffer, rows, seed), stream_of(config.name)
        train_offline(learner, sampler, config.offline, run, stream=stream, progress=progress, tensorboard=tensorboard)
        policy = as_item_policy(learner.policy(), setting, config.temperature)
    if generator is not None and not isinstance(policy, TwoStagePolicy):
        policy = TwoStagePolicy(generator, policy, config.pool_size)
    policy.save(policy_folder(run, config.name))
    return policy


def clone_logging_policy(setting: Setting, steps: int, run: RunFolder, *, seed: int, device: str, progress: Progress) -> ItemPolicy:
    """An estimate of the policy that made the log: its items cloned, saved as :data:`LOGGING`."""
    return learn(
        setting, LearnConfig("bc", "item", OfflineConfig(steps=steps), label=LOGGING), run, seed=seed, device=device, progress=progress
    )


def _generator(setting: Setting, config: LearnConfig) -> ItemPolicy | None:
    """The policy that names candidates, checked before anything is trained."""
    if not config.candidates:
        return None
    folder = saved_policy(config.candidates, "--candidates")
    policy = load_policy(folder)
    if not isinstance(policy, ItemPolicy):
        raise ConfigError(f"{folder.name} does not rank items", where="--candidates", mend="give a ranker, or another policy over items")
    check_source(folder, policy.scores.items, setting.store, "--candidates")
    spec = item_spec(setting.log.n_items)
    return TwoStagePolicy(policy, random_policy(spec), config.pool_size, spec).generator


def as_item_policy(policy: AnyPolicy, setting: Setting, temperature: float) -> ItemPolicy:
    """A learner's policy as a policy over the items of the log."""
    if isinstance(policy, ItemPolicy):
        return policy
    if isinstance(policy, DiscretePolicy):
        raise ConfigError("a policy over discrete choices ranks no items", where="action", mend="learn items, embeddings or fusion weights")
    scores = QueryScores(policy) if policy.action_spec.kind == "embedding" else FusionScores(policy, setting.predictions)
    return ItemPolicy(scores, item_spec(setting.log.n_items), temperature)


def stream_of(name: str) -> str:
    """The metric stream of the training of a policy."""
    return f"train-{name}"


def policy_folder(run: RunFolder, name: str) -> Path:
    """Where a run keeps a policy."""
    return run.path / "artifacts" / "policies" / name
