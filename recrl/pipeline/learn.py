"""Train a learner or a supervised ranker on a log and save its policy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recrl.algorithms import REGISTRY
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.pipeline.rank import RankConfig, learn_ranker
from recrl.pipeline.setting import LogAction, Setting
from recrl.policies.fusion import FusionScores
from recrl.policies.items import ItemPolicy, QueryScores, item_spec
from recrl.policies.vector import VectorPolicy
from recrl.rankers import RANKERS
from recrl.replay.samplers import UniformSampler
from recrl.training.offline import OfflineConfig, train_offline


@dataclass(frozen=True)
class LearnConfig:
    """One learner on one log.

    Attributes:
        algorithm: name in the registry of learners, or of a supervised ranker.
        action: what the learner decides: an item, an item embedding, or fusion weights.
        offline: length and portions of training.
        options: options of the learner that differ from its defaults.
        temperature: spread of the item choice of a vector learner, in units of its scores.
    """

    algorithm: str = "td3_bc"
    action: LogAction = "embedding"
    offline: OfflineConfig = OfflineConfig()
    options: Any = None
    temperature: float = 0.1
    label: str = field(default="")

    def __post_init__(self) -> None:
        known = (*REGISTRY, *RANKERS)
        if self.algorithm not in known:
            raise ConfigError(f"unknown algorithm {self.algorithm!r}", where="algorithm", mend=f"choose one of {', '.join(known)}")
        if self.options is None:
            object.__setattr__(self, "options", RankConfig() if self.is_ranker else REGISTRY[self.algorithm].config_type())

    @property
    def is_ranker(self) -> bool:
        """Whether this is a supervised ranker, whose options are a :class:`recrl.pipeline.rank.RankConfig`."""
        return self.algorithm in RANKERS

    @property
    def name(self) -> str:
        """Name of the policy and of its metric stream."""
        return self.label or (self.algorithm if self.is_ranker else f"{self.algorithm}-{self.action}")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for a run's configuration."""
        return {**asdict(self), "options": asdict(self.options)}


def learn(
    setting: Setting, config: LearnConfig, run: RunFolder, *, seed: int, device: str = "cpu", progress: Progress | None = None
) -> ItemPolicy:
    """Train, save the policy under ``artifacts/policies/<name>`` and return it as a policy over items.

    A policy over items is what a log can judge and a simulator can show; a vector learner becomes one by ranking: items are drawn
    with probability proportional to ``exp(score / temperature)``.
    """
    if config.is_ranker:
        folder = policy_folder(run, config.name)
        return learn_ranker(setting, config.algorithm, config.options, run, folder, seed=seed, device=device, progress=progress)
    learner = REGISTRY[config.algorithm](config.options, setting.task(config.action, device), seed)
    buffer = setting.buffer(config.action, device, history=config.options.actor.encoder.history)
    # cloning needs no next state: it may learn from a user's last row too
    rows = buffer.rows_of(setting.split.train, with_next=config.algorithm != "bc")
    train_offline(learner, UniformSampler(buffer, rows, seed), config.offline, run, stream=f"train-{config.name}", progress=progress)
    policy = as_item_policy(learner.policy(), setting, config.temperature)
    policy.save(policy_folder(run, config.name))
    return policy


def as_item_policy(policy: ItemPolicy | VectorPolicy, setting: Setting, temperature: float) -> ItemPolicy:
    """A learner's policy as a policy over the items of the log."""
    if isinstance(policy, ItemPolicy):
        return policy
    scores = QueryScores(policy) if policy.action_spec.kind == "embedding" else FusionScores(policy, setting.predictions)
    return ItemPolicy(scores, item_spec(setting.log.n_items), temperature)


def policy_folder(run: RunFolder, name: str) -> Path:
    """Where a run keeps a policy."""
    return run.path / "artifacts" / "policies" / name
