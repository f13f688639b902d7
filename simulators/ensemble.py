"""Model uncertainty: several simulators of one log, each fitted to a bootstrap of its users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from recrl.core.config import to_dict
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, StorageError
from recrl.core.files import read_json, write_json
from recrl.core.streams import Purpose, Streams
from recrl_datasets import Log, Sessions
from simulators.fit import FitConfig, FittedWorld, fit_world
from simulators.trees import SideFeatures

_CARD = "ensemble.json"
_LEAST_WEIGHT = 1e-3


def bootstrap_weights(log: Log, member: int, seed: int = 0) -> NDArray[np.float64]:
    """How often each user counts in one member, ``(n_users,)``: independent exponential draws, mean 1.

    The Bayesian bootstrap: no user falls out, so every member holds the same users under the same numbers. A user's draw depends on
    its raw id, the member and the seed alone.

    **Source**: Rubin, Annals of Statistics 1981; here over users, because rows of one user depend on each other.
    """
    draw = Streams(seed).uniform(log.user_keys, member, Purpose.BOOTSTRAP)
    return np.maximum(-np.log1p(-draw), _LEAST_WEIGHT)


class Ensemble(Sequence[FittedWorld]):
    """Simulators in a folder, one a member, read when asked for.

    A quantity computed in every member varies as much as the fit leaves open; the same users and the same luck in all of them
    (``world.population(n, seed)``, one seed of the streams) keep other noise out.

    **Errors**: :class:`StorageError` for a folder without members.

    **When it fails**: what no member was fitted to does not vary: eta_s, worth of behaviours and memory decays are stated.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.card = read_json(self.folder / _CARD)
        self._count = _complete(self.folder)
        if self._count == 0:
            raise StorageError("the ensemble has no members", where=str(folder), mend="recrl simulate fit --members 10")

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> FittedWorld: ...

    @overload
    def __getitem__(self, index: slice) -> list[FittedWorld]: ...

    def __getitem__(self, index: int | slice) -> FittedWorld | list[FittedWorld]:
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        return FittedWorld.load(_member(self.folder, range(len(self))[index]))

    def __iter__(self) -> Iterator[FittedWorld]:
        return (self[k] for k in range(len(self)))


def fit_ensemble(
    log: Log,
    folder: Path | str,
    *,
    members: int = 10,
    sessions: Sessions | None = None,
    groups: tuple[NDArray[np.int64], tuple[str, ...]] | None = None,
    sides: SideFeatures | None = None,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Ensemble:
    """Fit ``members`` simulators, each to the log with its users weighted anew, and save each as a folder when it is done.

    Called again after an interruption, or with more members, it goes on with those that are missing. Other arguments are those of
    :func:`simulators.fit.fit_world`; initial values and batches are the same in all members.

    **Errors**: :class:`ConfigError` for fewer than 2 members, or a folder that holds members of another log, configuration or seed.
    """
    tell: Progress = progress or (lambda share, what: None)
    if members < 2:
        raise ConfigError(f"members={members}", where="fit_ensemble", mend="one fit tells nothing of its uncertainty: give at least 2")
    folder = Path(folder)
    card = {"data_hash": log.content_hash, "seed": seed, "config": to_dict(config)}
    if (folder / _CARD).is_file() and read_json(folder / _CARD) != card:
        raise ConfigError(
            "the folder holds an ensemble of another log, configuration or seed",
            where=str(folder),
            mend="choose another folder, or delete it",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _CARD, card)
    for k in range(_complete(folder), members):

        def told(share: float, what: str, k: int = k) -> None:
            tell((k + share) / members, f"member {k + 1} of {members}: {what}")

        fitted = fit_world(
            log,
            sessions=sessions,
            groups=groups,
            sides=sides,
            weights=bootstrap_weights(log, k, seed),
            config=config,
            seed=seed,
            device=device,
            progress=told,
        )
        fitted.save(_member(folder, k))
    tell(1.0, "ensemble fitted")
    return Ensemble(folder)


def _member(folder: Path, number: int) -> Path:
    return folder / f"member-{number:03d}"


def _complete(folder: Path) -> int:
    """Members from the first on whose last file is there."""
    count = 0
    while (_member(folder, count) / "world.json").is_file():
        count += 1
    return count
