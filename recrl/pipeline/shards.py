"""One experiment's users shared by several processes or a Ray cluster; what is done is on disk, and a killed run goes on with the rest."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, MissingDependencyError, RecrlError
from recrl.core.files import sweep
from recrl.pipeline.seeds import cores, over_seeds, raise_failed
from simulators.ab.experiment import Experiment
from simulators.ab.parts import Piece, pieces_left, read_parts, write_part
from simulators.ab.users import UserMetrics

Engine = Literal["process", "ray"]
_ALONE = 10_000


@dataclass(frozen=True)
class EngineOptions:
    """Who simulates; changes no number.

    Attributes:
        engine: `process` on this machine, or `ray` on a cluster (`RAY_ADDRESS`; without one, on this machine).
        shards: workers that share the users; 0 is one a core, and one for fewer than 10,000 users.
    """

    engine: Engine = "process"
    shards: int = 0

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise ConfigError(f"unknown engine {self.engine!r}", where="--engine", mend=f"choose one of: {', '.join(get_args(Engine))}")
        if self.shards < 0:
            raise ConfigError(f"shards={self.shards} must be at least 0", where="--shards")
        if self.engine == "ray":
            _ray()

    def workers(self, users: int) -> int:
        """How many workers share so many users."""
        return self.shards or (1 if users < _ALONE else cores())


def simulate_in_shards(
    experiment: Experiment, folder: Path, engine: EngineOptions = EngineOptions(), progress: Progress | None = None
) -> dict[str, UserMetrics]:
    """What every user of every arm does; parts that ``folder`` holds already are not simulated again.

    The caller answers for the folder's belonging to this experiment. Memory holds the parts that are being simulated and, afterwards, the
    columns that are looked at.

    **Errors**: :class:`RecrlError` where a worker dies or the disk refuses; what was finished stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    users = experiment.design.users
    workers = engine.workers(users)
    pieces = pieces_left(folder, users, workers)
    tell = _Teller(users, pieces, progress)
    if engine.engine == "ray":
        _over_ray(experiment, folder, pieces, workers, tell)
    elif min(workers, len(pieces)) > 1:
        _over_processes(experiment, folder, pieces, workers, tell)
    else:
        for k, piece in enumerate(pieces):
            write_part(folder, piece, experiment.simulate(*piece, tick=lambda done, k=k: tell(k, done)))  # type: ignore[misc]
    return read_parts(folder, list(experiment.policies))


class _Teller:
    """Progress over pieces that are simulated in any order."""

    def __init__(self, users: int, pieces: Sequence[Piece], progress: Progress | None) -> None:
        self._users, self._pieces, self._progress = users, pieces, progress
        self._done = [0.0] * len(pieces)
        self._before = users - sum(high - low for low, high in pieces)

    def __call__(self, piece: int, done: float) -> None:
        """Piece number ``piece`` is done to this share."""
        self._done[piece] = done
        if self._progress is not None:
            live = sum(share * (high - low) for share, (low, high) in zip(self._done, self._pieces, strict=True))
            total = (self._before + live) / self._users
            self._progress(total, f"{int(total * self._users):,} of {self._users:,} users")


@dataclass(frozen=True, eq=False)
class _Share:
    """What one process does."""

    experiment: Experiment
    folder: Path
    pieces: tuple[Piece, ...]


def _do(share: _Share, tell: Progress) -> dict[str, Any]:
    torch.set_num_threads(1)
    for k, piece in enumerate(share.pieces):
        write_part(share.folder, piece, share.experiment.simulate(*piece, tick=lambda done, k=k: tell(done, str(k))))  # type: ignore[misc]
        tell(1.0, str(k))
    return {}


def _over_processes(
    experiment: Experiment, folder: Path, pieces: Sequence[Piece], workers: int, tell: Callable[[int, float], None]
) -> None:
    shares = {k: _Share(experiment, folder, tuple(pieces[k::workers])) for k in range(min(workers, len(pieces)))}
    found = over_seeds(_do, shares, workers, lambda shard, done, text: tell(shard + workers * int(text), done))
    raise_failed(found, lambda shard: f"shard {shard}", {"--jobs": "--shards", "this seed alone": "with --shards 1"})


def _over_ray(experiment: Experiment, folder: Path, pieces: Sequence[Piece], workers: int, tell: Callable[[int, float], None]) -> None:
    if not pieces:
        return
    ray, ours = _ray(), False
    if not ray.is_initialized():
        ours = "RAY_ADDRESS" not in os.environ
        ray.init(**({"num_cpus": workers, "include_dashboard": False} if ours else {}), log_to_driver=False, logging_level="warning")
    try:
        shared, simulate = ray.put(experiment), ray.remote(_simulate)
        waiting = list(enumerate(pieces))
        running: dict[Any, tuple[int, Piece]] = {}
        while waiting or running:
            # twice as many tasks as workers: nobody waits for this process to write
            while waiting and len(running) < 2 * workers:
                k, piece = waiting.pop(0)
                running[simulate.remote(shared, piece)] = (k, piece)
            (ready, *_), _ = ray.wait(list(running))
            k, piece = running.pop(ready)
            write_part(folder, piece, _got(ray, ready))
            tell(k, 1.0)
    finally:
        if ours:
            ray.shutdown()


def _simulate(experiment: Experiment, piece: Piece) -> Mapping[str, UserMetrics]:
    torch.set_num_threads(1)
    return experiment.simulate(*piece)


def _got(ray: Any, ready: Any) -> Mapping[str, UserMetrics]:
    try:
        found: Mapping[str, UserMetrics] = ray.get(ready)
    except ray.exceptions.RayError as error:
        what = str(error).strip().splitlines()[-1]
        raise RecrlError(f"a Ray worker failed: {what}", where="--engine ray", mend="the same command goes on") from None
    return found


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MissingDependencyError(
            "Ray is not installed", where="--engine ray", mend="pip install 'recrl[ray]', or choose --engine process"
        ) from None
