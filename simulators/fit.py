"""From a log to a world: responses, leaving and returning fitted one after the other, saved as a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from recrl.core.config import from_dict, to_dict
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError, StorageError
from recrl.core.files import atomic_path, read_json, write_json
from recrl.core.objective import Objective
from recrl.core.streams import Purpose, Streams
from recrl_datasets import Log, Sessions, Store
from simulators.boosted_fit import fit_boosted
from simulators.boosted_response import BoostedResponse
from simulators.config import WorldConfig
from simulators.law_fit import fit_leave, fit_retention
from simulators.leave import LeaveLaw
from simulators.past import Ground
from simulators.response import LatentResponse
from simulators.response_fit import ResponseConfig, fit_response
from simulators.response_model import ResponseModel, load_response
from simulators.retention import RetentionLaw
from simulators.satisfaction import Satisfaction, mean_satisfaction
from simulators.sequence_fit import SequenceConfig, fit_sequence
from simulators.trace import Trace, trace
from simulators.trees import BoostedConfig, SideFeatures, fit_ground
from simulators.world import RetentionWorld

ModelKind = Literal["latent", "sequence", "boosted"]
"""Response models by name."""

_REFERENCE_ITEMS = 256
_LEAST_GROUP = 50


@dataclass(frozen=True)
class FitConfig:
    """What is taken from the log, and what is stated.

    Attributes:
        model: who answers: ``latent`` factors, a ``sequence``-encoded user, or ``boosted`` trees.
        response: how the latent model is fitted.
        sequence: how the sequence model is fitted.
        boosted: how the trees are fitted.
        satisfaction: how feedback becomes satisfaction; never fitted.
        leave: session depth from the ``log``, or a ``synthetic`` law of ``mean_depth``.
        mean_depth: requests in a session under the synthetic law.
        retention: return hazards from the ``log``, or KuaiRand's ``published`` ones.
        max_days: days after which an absent user counts as churned (fitted law).
    """

    model: ModelKind = "latent"
    response: ResponseConfig = field(default_factory=ResponseConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    boosted: BoostedConfig = field(default_factory=BoostedConfig)
    satisfaction: Satisfaction = field(default_factory=Satisfaction)
    leave: Literal["log", "synthetic"] = "log"
    mean_depth: float = 6.0
    retention: Literal["log", "published"] = "log"
    max_days: int = 10

    def __post_init__(self) -> None:
        if self.model not in get_args(ModelKind):
            raise ConfigError(f"model={self.model!r}", where="FitConfig.model", mend=f"choose one of {', '.join(get_args(ModelKind))}")
        if self.leave not in ("log", "synthetic") or self.retention not in ("log", "published"):
            raise ConfigError(
                f"leave={self.leave!r}, retention={self.retention!r}", where="FitConfig", mend="choose log, or synthetic / published"
            )
        if self.max_days < 1:
            raise ConfigError(f"max_days is {self.max_days}", where="FitConfig.max_days", mend="it must be at least 1")

    @classmethod
    def ratings(cls) -> FitConfig:
        """For logs of ratings such as MovieLens: tastes from the log; rates, depth and return stated, because such a log has none."""
        return cls(
            response=ResponseConfig(rates="published"),
            sequence=SequenceConfig(rates="published"),
            boosted=BoostedConfig(rates="published"),
            leave="synthetic",
            retention="published",
        )


@dataclass(frozen=True, eq=False)
class FittedWorld:
    """What was fitted, ready to become worlds with different options.

    **Shapes**: ``baseline`` (n_users,) float64; ``groups`` (n_users,) int64 codes into ``retention.group_names``, -1 for none;
    ``exposures`` (n_items,) int64 rows of each item in the log.
    """

    response: ResponseModel
    leave: LeaveLaw
    retention: RetentionLaw
    satisfaction: Satisfaction
    baseline: NDArray[np.float64]
    groups: NDArray[np.int64]
    exposures: NDArray[np.int64]
    config: FitConfig
    data_hash: str
    seed: int = 0

    def world(
        self,
        config: WorldConfig = WorldConfig(),  # noqa: B008 - frozen
        *,
        objective: Objective = Objective(),  # noqa: B008 - frozen
        scorer: LatentResponse | None = None,
        item_vectors: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> RetentionWorld:
        """A world of these users; see :class:`simulators.world.RetentionWorld`.

        Without a ``scorer``, the platform knows the tastes as the log left them (``response.platform()``).
        """
        scorer = self.response.platform() if scorer is None else scorer
        return RetentionWorld(
            config,
            self.response,
            self.leave,
            self.retention,
            satisfaction=self.satisfaction,
            baseline=torch.from_numpy(self.baseline),
            groups=torch.from_numpy(self.groups),
            objective=objective,
            scorer=scorer,
            item_vectors=item_vectors,
            device=device,
        )

    def trace(self, sessions: Sessions) -> Trace:
        """The world's covariates along the sessions of a log over the same users and items."""
        return trace(
            sessions,
            self.satisfaction,
            self.baseline,
            half_life_days=self.leave.fatigue_half_life_days,
            memory_decay=self.retention.memory_decay,
            max_days=self.retention.max_days,
        )

    def notes(self) -> tuple[str, ...]:
        """What a reader of any result must know: what is synthetic, what is not identified."""
        eta, interval = self.retention.eta_s_estimate, self.retention.eta_s_interval
        out = [
            f"leaving: {self.leave.source}",
            f"return: {self.retention.source}",
            "effect of satisfaction on return: no estimate; scenarios weak and strong are assumptions"
            if eta is None or interval is None
            else f"effect of satisfaction on return: {eta:.3f} [{interval[0]:.3f}, {interval[1]:.3f}], observational and not identified",
        ]
        notes = self.response.notes
        if notes.rates_from == "published":
            out.append("rates of behaviours: published for KuaiRand-Pure, not this log's")
        if notes.intercept_only:
            out.append(f"no factors of their own (too few positives): {', '.join(notes.intercept_only)}")
        if notes.taste_spread < 0.05:
            out.append("the log tells no personal taste beyond user and item biases: item vectors are near 0")
        if isinstance(self.response, BoostedResponse):
            out.append(f"trees are tabulated by user group: P(click) is off by {self.response.table_error:.3f} (root mean square)")
        return tuple(out)

    def save(self, folder: Path | str) -> None:
        """Write the fit into ``folder``: JSON and safetensors."""
        folder = Path(folder)
        self.response.save(folder)
        with atomic_path(folder / "tables.safetensors") as temporary:
            save_file({"baseline": self.baseline, "groups": self.groups, "exposures": self.exposures}, temporary)
        write_json(
            folder / "world.json",
            {
                "leave": to_dict(self.leave),
                "retention": to_dict(self.retention),
                "satisfaction": to_dict(self.satisfaction),
                "config": to_dict(self.config),
                "data_hash": self.data_hash,
                "seed": self.seed,
            },
        )

    @classmethod
    def load(cls, folder: Path | str) -> FittedWorld:
        """Read what :meth:`save` wrote.

        **Errors**: :class:`StorageError` for a missing or broken file.
        """
        folder = Path(folder)
        data = read_json(folder / "world.json")
        try:
            tables = load_file(folder / "tables.safetensors")
            return cls(
                load_response(folder),
                from_dict(LeaveLaw, data["leave"], where="world.json"),
                from_dict(RetentionLaw, data["retention"], where="world.json"),
                from_dict(Satisfaction, data["satisfaction"], where="world.json"),
                tables["baseline"],
                tables["groups"],
                tables["exposures"],
                from_dict(FitConfig, data["config"], where="world.json"),
                str(data["data_hash"]),
                int(data["seed"]),
            )
        except (OSError, KeyError, SafetensorError) as error:
            raise StorageError(f"the fitted simulator cannot be read: {error}", where=str(folder), mend="fit the simulator again") from None


def activity_groups(store: Store, column: str = "user_active_degree") -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Activity group of each user, ``(n_users,)``, and the groups' names; no groups where the store has no such column.

    Groups of fewer than 50 users are put together as ``other``.
    """
    if column not in store.users.columns:
        return np.full(store.users.height, -1, dtype=np.int64), ()
    labels = np.asarray(store.users[column].cast(str).fill_null("other").to_list())
    names, code = np.unique(labels, return_inverse=True)
    labels[np.bincount(code)[code] < _LEAST_GROUP] = "other"
    names, code = np.unique(labels, return_inverse=True)
    return code.astype(np.int64), tuple(str(name) for name in names)


def fit_world(
    log: Log,
    *,
    sessions: Sessions | None = None,
    groups: tuple[NDArray[np.int64], tuple[str, ...]] | None = None,
    sides: SideFeatures | None = None,
    ground: Ground | None = None,
    weights: NDArray[np.float64] | None = None,
    config: FitConfig = FitConfig(),
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> FittedWorld:
    """Fit a simulator to a log.

    Args:
        log: training rows.
        sessions: sessions of these rows; needed where leaving or returning is fitted.
        groups: activity groups as :func:`activity_groups` gives them.
        sides: what is known of users and items besides the rows; with them every model stands on boosted trees.
        ground: those trees' levels where they are fitted already (:func:`simulators.trees.fit_ground`); no use to the boosted model.
        weights: (n_users,) how often each user counts, all positive; 1 without.
        config: what is fitted and what is stated; :meth:`FitConfig.ratings` for logs of ratings.
        seed: of initial values and the order of batches.
        device: where responses are fitted; what was fitted is on the CPU.
        progress: called with the finished share and what is going on.

    **Errors**: :class:`DataError` where the log cannot carry what is asked.
    """
    tell: Progress = progress or (lambda share, what: None)
    if sessions is None and "log" in (config.leave, config.retention):
        raise DataError(
            "leaving and returning are fitted from sessions",
            where="fit_world: sessions",
            mend="give recrl_datasets.sessions(log, rule='day')",
        )
    if sessions is not None and sessions.log.content_hash != log.content_hash:
        raise DataError("the sessions were cut from another log", where="fit_world: sessions", mend="cut them from the log that is fitted")
    codes, names = groups if groups is not None else (np.full(log.n_users, -1, dtype=np.int64), ())
    if codes.shape != (log.n_users,):
        raise DataError(f"groups has shape {codes.shape}", where="fit_world: groups", mend=f"give one code for each of {log.n_users} users")
    response = _fit_model(log, sides, ground, weights, config, seed, device, lambda share, what: tell(0.8 * share, what))
    # the exposure that "baseline" means: items as often as the log showed them
    rows = Streams(seed).integers(log.n_rows, np.arange(_REFERENCE_ITEMS), 0, Purpose.CANDIDATES)
    reference = torch.from_numpy(log.column("item")[rows].astype(np.int64))
    baseline = mean_satisfaction(response, config.satisfaction, reference).double().numpy()
    leave = LeaveLaw.synthetic(config.mean_depth)
    retention = RetentionLaw.published()
    if sessions is not None and "log" in (config.leave, config.retention):
        tell(0.85, "covariates of leaving and returning")
        traced = trace(
            sessions,
            config.satisfaction,
            baseline,
            half_life_days=leave.fatigue_half_life_days,
            memory_decay=retention.memory_decay,
            max_days=config.max_days,
        )
        if config.leave == "log":
            tell(0.9, "leave law")
            leave = fit_leave(sessions, traced, half_life_days=leave.fatigue_half_life_days, weights=weights)
        if config.retention == "log":
            tell(0.95, "return law")
            retention = fit_retention(
                sessions,
                traced,
                groups=codes,
                group_names=names,
                max_days=config.max_days,
                memory_decay=retention.memory_decay,
                weights=weights,
            )
    tell(1.0, "simulator fitted")
    return FittedWorld(
        response,
        leave,
        retention,
        config.satisfaction,
        baseline,
        codes if retention.group_names else np.full(log.n_users, -1, dtype=np.int64),
        np.bincount(log.column("item"), minlength=log.n_items).astype(np.int64),
        config,
        log.content_hash,
        seed,
    )


def _fit_model(
    log: Log,
    sides: SideFeatures | None,
    ground: Ground | None,
    weights: NDArray[np.float64] | None,
    config: FitConfig,
    seed: int,
    device: torch.device | str,
    progress: Progress,
) -> ResponseModel:
    if config.model == "boosted":
        return fit_boosted(log, config.boosted, sides=sides, weights=weights, seed=seed, progress=progress)
    late = progress
    if sides is not None and ground is None:
        early: Progress = lambda share, what: progress(0.4 * share, what)  # noqa: E731
        late = lambda share, what: progress(0.4 + 0.6 * share, what)  # noqa: E731
        ground = fit_ground(log, sides, config.boosted, weights=weights, seed=seed, progress=early)
    if config.model == "sequence":
        return fit_sequence(log, config.sequence, ground=ground, weights=weights, seed=seed, device=device, progress=late)
    return fit_response(log, config.response, ground=ground, weights=weights, seed=seed, device=device, progress=late)
