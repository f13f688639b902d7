"""Train a learner by acting: on simulated users, or in a control task of Gymnasium."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from gymnasium.vector import AutoresetMode

from recrl.algorithms import REGISTRY
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Progress, Sampler
from recrl.core.errors import ConfigError
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.runs import RunFolder
from recrl.pipeline.learn import policy_folder, stream_of
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import platform_world
from recrl.pipeline.trials import TaskEvaluation, UsersEvaluation, make_task
from recrl.policies import AnyPolicy
from recrl.policies.gaussian import GaussianPolicy
from recrl.policies.items import ItemPolicy, QueryScores, item_spec
from recrl.policies.vector import VectorPolicy
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.replay.session_buffer import SessionBuffer
from recrl.replay.sessions import SessionSampler
from recrl.training.collect import GymCollector, WorldCollector
from recrl.training.online import Memory, OnlineConfig, train_online
from simulators.config import Scenario, WorldConfig
from simulators.drift import DriftConfig
from simulators.fit import FittedWorld
from simulators.world import RetentionWorld

OFFLINE_ONLY = ("bc", "bcq", "cql")
"""Learners that stay near logged actions: their own would teach them nothing."""

OnlineAction = Literal["embedding", "fusion_weights", "item"]
"""Action kinds that a learner can take in the simulator; ``item`` shows one item a request, of the whole catalogue (``pool=0``)."""


def _at_least_one(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}={getattr(config, name)} must be at least 1", where=f"--{name.replace('_', '-')}")


@dataclass(frozen=True)
class UsersConfig:
    """Simulated users to learn from.

    Attributes:
        users: simulated users side by side.
        slate: items a request shows.
        pool: candidates of a request, drawn anew for each.
        days: a user whose next session would start on this day or later is replaced by a fresh one.
        scenario: assumed effect of satisfaction on return: `fitted`, `weak`, `strong`.
        evaluate_users: fresh users of each evaluation.
        drift: how their world changes over the days of each user's life; evaluations live through the same.
    """

    users: int = 64
    slate: int = 6
    pool: int = 100
    days: int = 30
    scenario: Scenario = "fitted"
    evaluate_users: int = 200
    drift: DriftConfig = DriftConfig()

    def __post_init__(self) -> None:
        _at_least_one(self, "users", "slate", "days", "evaluate_users")


@dataclass(frozen=True)
class TaskConfig:
    """A control task to learn from.

    Attributes:
        env: Gymnasium id of a control task to act in instead, for example `Pendulum-v1`.
        tasks: copies of it side by side.
        episodes: of it in each evaluation.
    """

    env: str = ""
    tasks: int = 1
    episodes: int = 10

    def __post_init__(self) -> None:
        _at_least_one(self, "tasks", "episodes")


@dataclass(frozen=True)
class BufferConfig:
    """What is remembered of what was collected.

    Attributes:
        kind: single `transitions`, drawn uniformly; or whole `sessions` (episodes of a control task), drawn as windows.
        capacity: transitions kept.
        window: transitions of a session that are drawn together (`sessions` only).
    """

    kind: Literal["transitions", "sessions"] = "transitions"
    capacity: int = 100_000
    window: int = 8

    def __post_init__(self) -> None:
        _at_least_one(self, "capacity", "window")

    def build(self, seed: int, device: str, *, shown: int = 0) -> tuple[Memory, Sampler]:
        """The buffer and its sampler; ``shown`` is how many items a request shows, 0 for a control task."""
        if self.kind == "transitions":
            ring = RingBuffer(self.capacity, device)
            return ring, UniformSampler(ring, None, seed)
        sessions = SessionBuffer(self.capacity, unit="session" if shown else "user", shown=max(1, shown), device=device)
        return sessions, SessionSampler(sessions, seed, max_length=self.window)


@dataclass(frozen=True)
class OnlinePlan:
    """One learner that acts.

    Attributes:
        algorithm: name in the registry of learners.
        action: what the learner decides about simulated users.
        online: length and portions of training.
        options: options of the learner.
        buffer: what is remembered.
        discount: within sessions (but for `return`, not discounted there) and across them.
        temperature: spread of the item choice of the saved policy, in units of its scores.
        constraints: responses to protect, as :meth:`recrl.core.objective.Constraint.parse` reads them.
    """

    algorithm: str = "td3"
    action: OnlineAction = "embedding"
    online: OnlineConfig = OnlineConfig()
    options: Any = None
    buffer: BufferConfig = BufferConfig()
    discount: float = 0.99
    temperature: float = 0.1
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.constraints:
            Constraint.parse(text)
        known = [name for name in REGISTRY if name not in OFFLINE_ONLY]
        if self.algorithm not in known:
            what = "learns from logged actions only" if self.algorithm in OFFLINE_ONLY else "is unknown"
            raise ConfigError(f"algorithm {self.algorithm!r} {what}", where="algorithm", mend=f"choose one of {', '.join(known)}")
        if self.options is None:
            object.__setattr__(self, "options", REGISTRY[self.algorithm].config_type())

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for a run's configuration."""
        return {**asdict(self), "options": asdict(self.options)}

    def objective(self, signal: str) -> Objective:
        """The signal as the main reward, and the constraints; days away are not discounted within a session, which would pay for delay."""
        within = 1.0 if signal == "return" else self.discount
        main = Signal(signal, discount_within=within, discount_across=self.discount)
        return Objective(main).protecting(self.constraints, self.discount)


def users_world(setting: Setting, fitted: FittedWorld, plan: OnlinePlan, users: UsersConfig, device: str = "cpu") -> RetentionWorld:
    """The world a plan learns in.

    **Errors**: :class:`ConfigError` for a signal that the world does not have, or a catalogue too small for the pool.
    """
    options = WorldConfig(
        action_kind=plan.action,
        slate_size=users.slate,
        # a learner over items chooses from all of them: pools are not remembered
        pool_size=0 if plan.action == "item" else users.pool,
        horizon_days=users.days,
        scenario=users.scenario,
        drift=users.drift,
        truth=False,
    )
    # a memory as long as the learner reads, and as what the candidates pass over
    options = replace(options, history=max(plan.options.actor.encoder.history, options.exclude_recent))
    return platform_world(setting, fitted, options, device, plan.objective(setting.options.signal))


def learn_from_users(
    setting: Setting,
    world: RetentionWorld,
    plan: OnlinePlan,
    users: UsersConfig,
    run: RunFolder,
    name: str,
    *,
    seed: int,
    progress: Progress | None = None,
    tensorboard: bool = False,
) -> AnyPolicy:
    """Train on simulated users and save the policy under ``artifacts/policies/<name>``.

    A policy over embeddings is saved as one over items, which off-policy estimates and A/B tests take; one over fusion weights as it is:
    an A/B test lets the platform rank by them, as it did in training.
    """
    device = str(world.device)
    counts = setting.log_counts.to(device)
    task = Task(world.action_spec, world.objective, setting.item_vectors.to(device), counts, device)
    learner = REGISTRY[plan.algorithm](plan.options, task, seed)
    evaluate = UsersEvaluation(world, users.evaluate_users, users.days, seed, deterministic=plan.action != "item")
    buffer, sampler = plan.buffer.build(seed, device, shown=world.config.shown)
    train_online(
        learner,
        WorldCollector(world, users.users, seed),
        buffer,
        plan.online,
        run,
        stream=stream_of(name),
        seed=seed,
        sampler=sampler,
        evaluate=evaluate,
        progress=progress,
        tensorboard=tensorboard,
    )
    policy: AnyPolicy = learner.policy()
    if isinstance(policy, VectorPolicy | GaussianPolicy) and plan.action == "embedding":
        policy = ItemPolicy(QueryScores(policy), item_spec(setting.log.n_items), plan.temperature)
    policy.save(policy_folder(run, name))
    return policy


def learn_from_task(
    config: TaskConfig,
    plan: OnlinePlan,
    run: RunFolder,
    name: str,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
    tensorboard: bool = False,
) -> AnyPolicy:
    """Train in a control task and save the policy under ``artifacts/policies/<name>``; it reads flat observations and acts in [-1, 1]."""
    env = make_task(config.env, config.tasks, AutoresetMode.DISABLED)
    assert env.single_observation_space.shape is not None
    assert env.single_action_space.shape is not None
    encoder = replace(plan.options.actor.encoder, kind="flat", features=env.single_observation_space.shape[0])
    options = replace(plan.options, actor=replace(plan.options.actor, encoder=encoder))
    spec = ActionSpec("continuous", env.single_action_space.shape)
    if plan.constraints:
        raise ConfigError("a control task has one reward", where="--constraints", mend="leave them out")
    learner = REGISTRY[plan.algorithm](options, Task(spec, plan.objective("reward"), device=device), seed)
    evaluate = TaskEvaluation(config.env, config.episodes, seed, device)
    buffer, sampler = plan.buffer.build(seed, device)
    train_online(
        learner,
        GymCollector(env, seed, device),
        buffer,
        plan.online,
        run,
        stream=stream_of(name),
        seed=seed,
        sampler=sampler,
        evaluate=evaluate,
        progress=progress,
        tensorboard=tensorboard,
    )
    policy = learner.policy()
    policy.save(policy_folder(run, name))
    return policy
