"""A fitted simulator's users under a policy, written as a prepared store."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.config import to_dict
from recrl.core.contracts import Action, ActionSpec, Observation, Policy, Progress
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.pipeline.policies import fingerprint, history_of
from recrl.pipeline.setting import Setting
from recrl.pipeline.simulate import platform_world
from recrl.policies.encoders import EncoderConfig
from recrl.policies.gaussian import AnyVectorPolicy
from recrl.policies.items import ItemPolicy, item_spec
from recrl.policies.networks import draw_ids
from recrl.policies.static import static_policy
from recrl.policies.vector import ActorConfig
from recrl_datasets import REGISTRY, DatasetSource, RawTables, Store
from recrl_datasets.preparing import prepare_source
from simulators.config import Scenario, WorldAction, WorldConfig
from simulators.drift import DriftConfig
from simulators.fit import FittedWorld
from simulators.logging import log_rows
from simulators.world import RetentionWorld


@dataclass(frozen=True)
class LogConfig:
    """What is simulated for a log.

    Attributes:
        users: simulated users.
        days: simulated days; the record ends with the last one.
        slate: items a request shows.
        pool: candidates of a request, drawn anew for each; 0 takes the whole catalogue, and propensities are then over all items.
        scenario: assumed effect of satisfaction on return: `fitted`, `weak`, `strong`.
        eta_s: the same effect as a number, in log-odds of return a unit of satisfaction; it takes the scenario's place.
        leave_odds: factor on the odds that a session ends after a request; 1 as fitted, less for deeper sessions.
        drift: how the world changes with the calendar.
    """

    users: int = 2_000
    days: int = 30
    slate: int = 1
    pool: int = 0
    scenario: Scenario = "fitted"
    eta_s: float | None = None
    leave_odds: float = 1.0
    drift: DriftConfig = DriftConfig()

    def __post_init__(self) -> None:
        for name, least in (("users", 1), ("days", 1), ("slate", 1), ("pool", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}", where=f"--{name}")
        if self.eta_s is not None and not 0.0 <= self.eta_s <= 100.0:
            raise ConfigError(f"eta_s={self.eta_s} is no effect of satisfaction", where="--eta-s", mend="give 0 to 100")
        if not 1e-3 <= self.leave_odds <= 1e3:
            raise ConfigError(f"leave_odds={self.leave_odds} is no factor of odds", where="--leave-odds", mend="give 0.001 to 1000")

    def assumed(self, fitted: FittedWorld) -> FittedWorld:
        """The simulator with the laws of return and of leaving that are asked for."""
        retention, leave = fitted.retention.under(self.scenario), fitted.leave
        if self.eta_s is not None:
            retention = replace(retention, eta_s=self.eta_s)
        return replace(fitted, retention=retention, leave=replace(leave, intercept=leave.intercept + math.log(self.leave_odds)))


class SlateLogger:
    """An item policy that also says with which probability it put each item in its place (``notes["propensity"]``)."""

    def __init__(self, policy: ItemPolicy) -> None:
        self.action_spec, self._policy = policy.action_spec, policy

    @torch.no_grad()
    def act(self, observation: Observation, streams: TensorStreams, *, step: Tensor | int = 0, deterministic: bool = False) -> Action:
        """A Plackett-Luce draw, as the policy's own, with its factors."""
        candidates, law = self._policy.law(observation)
        keys = law if deterministic else law + streams.gumbel(draw_ids(observation, law.device), step, Purpose.EXPLORATION, (law.shape[1],))
        place = keys.topk(self.action_spec.shape[0] if self.action_spec.shape else 1, dim=1).indices
        factors = chosen_log_probs(law, place)
        items = place if candidates is None else candidates.gather(1, place)
        return Action(items if self.action_spec.shape else items.squeeze(1), factors.sum(1), {"propensity": factors.exp()})

    def log_prob(self, observation: Observation, action: Tensor) -> Tensor:
        """As the policy's."""
        return self._policy.log_prob(observation, action)

    def save(self, folder: Path) -> None:
        """As the policy's."""
        self._policy.save(folder)


def chosen_log_probs(law: Tensor, place: Tensor) -> Tensor:
    """Log-probability of each pick given those before it: log-probabilities (B, C) and picked columns (B, K) -> (B, K) float64."""
    law, left = law.double(), []
    for k in range(place.shape[1]):
        picked = place[:, k : k + 1]
        left.append(law.gather(1, picked) - torch.logsumexp(law, dim=1, keepdim=True))
        law = law.scatter(1, picked, -torch.inf)
    return torch.cat(left, dim=1)


def weights_policy(setting: Setting, weights: Sequence[str], spread: float) -> AnyVectorPolicy:
    """A policy of static fusion weights such as ``click=0.2``, with Gaussian exploration around them; weights that are not named are 0.

    **Errors**: :class:`ConfigError` for what is no behaviour, or no weight in [-1, 1].
    """
    value = torch.zeros(len(BEHAVIOURS))
    for text in weights:
        name, _, number = text.partition("=")
        try:
            value[BEHAVIOURS.index(name)] = float(number)
        except ValueError:
            mend = f"give a behaviour and its weight, such as long_view=1; behaviours: {', '.join(BEHAVIOURS)}"
            raise ConfigError(f"{text!r} is no weight of a behaviour", where="--weights", mend=mend) from None
    actor = ActorConfig(EncoderConfig(history=1), exploration=spread)
    return static_policy(ActionSpec("fusion_weights", (len(BEHAVIOURS),)), value, setting.item_vectors, actor)


def log_world(
    setting: Setting, fitted: FittedWorld, policy: ItemPolicy | AnyVectorPolicy, config: LogConfig, device: str = "cpu"
) -> tuple[RetentionWorld, Policy]:
    """The world of a log, and the policy as it acts in it."""
    kind: WorldAction = "embedding" if policy.action_spec.kind == "embedding" else "fusion_weights"
    if isinstance(policy, ItemPolicy):
        kind = "slate" if config.slate > 1 else "item"
    options = WorldConfig(
        action_kind=kind,
        slate_size=config.slate,
        pool_size=config.pool,
        horizon_days=config.days,
        scenario=config.scenario,
        drift=config.drift,
        truth=False,
    )
    options = replace(options, history=max(options.history, history_of(policy)))
    world = platform_world(setting, config.assumed(fitted), options, device)
    if not isinstance(policy, ItemPolicy):
        return world, policy.to(device)
    spec = item_spec(world.n_items, config.slate if config.slate > 1 else None, pool=config.pool > 0)
    return world, SlateLogger(policy.with_spec(spec).to(device))


def write_log(
    setting: Setting,
    fitted: FittedWorld,
    simulator: str,
    policy: ItemPolicy | AnyVectorPolicy,
    config: LogConfig,
    name: str,
    *,
    logger: str,
    seed: int,
    device: str = "cpu",
    stores: Path = Path("stores"),
    progress: Progress | None = None,
) -> Store:
    """Simulate and store the log as ``stores/name``, whole or not at all; the same one that is there already is only opened.

    Users carry the features of the catalogue user whose tastes they have (``catalogue_user``). Items are all those of the log that the
    simulator was fitted to, shown or not: item ``k`` is item ``k`` there.

    Args:
        setting: the log that the simulator and the platform's predictions were fitted to.
        fitted: the simulator.
        simulator: its hash.
        policy: the logging policy.
        config: what is simulated.
        name: of the store.
        logger: name of the policy.
        seed: of users, their luck and the policy's draws.
        device: where it is simulated.
        stores: folder of the stores.
        progress: called with the finished share and a line of text.

    **Errors**: :class:`ConfigError` for the name of a dataset, or options that do not fit the world.
    """
    if name in REGISTRY or name == setting.store.name:
        raise ConfigError(f"{name!r} is the name of a dataset", where="--name", mend="choose another name")
    world, acting = log_world(setting, fitted, policy, config, device)
    users = world.population(config.users, seed)
    tell = _rising(progress or (lambda done, text: None))
    store = setting.store

    def tick(done: int) -> None:
        tell(0.05 + 0.4 * done / config.users, f"simulating: {done:,} of {config.users:,} users")

    def rows() -> Iterator[pl.DataFrame]:
        streams = TensorStreams(seed, device)
        yield from log_rows(world, acting, users, streams, item_ids=store.items["item_id"], logger=logger, tick=tick)

    def tables(folder: Path | None) -> RawTables:
        catalogue = torch.remainder(users, world.n_users).cpu().numpy()
        features = store.users[catalogue].rename({"user": "catalogue_user", "user_id": "catalogue_user_id"})
        features = features.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("user_id"))
        return RawTables(
            rows,
            users=features,
            items=store.items.drop("item"),
            leaky_items=store.manifest.leaky_items,
            catalogue=store.items["item_id"],
        )

    m = store.manifest
    source = DatasetSource(name, f"simulated users of {m.title}, shown by {logger}", m.licence, m.citation, False, lambda root: {}, tables)
    asked = {"simulator": simulator, "policy": fingerprint(policy), "logger": logger, "seed": seed, **to_dict(config)}
    # as fitted: a log from before there was a choice is the same log
    asked = {name: value for name, value in asked.items() if (name, value) not in (("eta_s", None), ("leave_odds", 1.0))}
    asked["spec"] = asdict(acting.action_spec) if isinstance(policy, ItemPolicy) else {"exploration": policy.config.exploration}
    return prepare_source(source, None, options=json.dumps(asked, sort_keys=True), stores=stores, progress=tell)


def _rising(progress: Progress) -> Progress:
    """Reports that never fall back: simulating and storing take turns."""
    most = 0.0

    def report(done: float, text: str) -> None:
        nonlocal most
        most = max(most, done)
        progress(most, text)

    return report
