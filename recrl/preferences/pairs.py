"""Pairs of segments with their labels: drawn, split by user, stored as Parquet, never as copies of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.contracts import Transitions
from recrl.core.errors import ConfigError, DataError, StorageError
from recrl.core.files import atomic_path
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose, Streams
from recrl.preferences.teacher import Teacher
from recrl.preferences.trajectories import Trajectories
from recrl.preferences.windows import PreferenceTask, Windows, Yardstick, signals

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
SPLITS = ("train", "valid", "test")
_TRIES = 16


@dataclass(frozen=True)
class PairConfig:
    """How many pairs, of whom.

    Attributes:
        pairs: of training users.
        held_out: of validation users, and as many of test users.
        within: share of pairs whose segments are of one user. Across users the better one is mostly told by who the user is, which tells a
            policy nothing about what to do.
        shares: of the users, for training, validation and test.
    """

    pairs: int = 2_000
    held_out: int = 500
    within: float = 0.5
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.held_out < 0 or not 0.0 <= self.within <= 1.0:
            raise ConfigError(
                f"pairs={self.pairs}, held_out={self.held_out}, within={self.within} are out of range",
                where="pairs",
                mend="pairs >= 1, held_out >= 0, 0 <= within <= 1",
            )
        if min(self.shares) < 0 or abs(sum(self.shares) - 1.0) > 1e-9 or self.shares[0] == 0:
            raise ConfigError(f"shares={self.shares} do not cut the users in three", where="pairs.shares", mend="give shares that sum to 1")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of segments, as ranges of rows of their :class:`Trajectories`.

    **Shapes**: all (P,): ``first_start``, ``first_end``, ``second_start``, ``second_end`` int64 rows; ``first_user``,
    ``second_user`` int64; ``split`` int8 (train 0, valid 1, test 2); ``preferred`` float64: the given label, the probability that the first
    is preferred (NaN: none yet, or skipped); ``first_value``, ``second_value`` float64: how good a scripted teacher knows them to be,
    without noise (NaN for a person).
    """

    first_start: Int64
    first_end: Int64
    second_start: Int64
    second_end: Int64
    first_user: Int64
    second_user: Int64
    split: NDArray[np.int8]
    preferred: Float64
    first_value: Float64
    second_value: Float64

    def __len__(self) -> int:
        return int(self.first_start.size)

    def __getitem__(self, index: Any) -> Pairs:
        return Pairs(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @property
    def truth(self) -> Float64:
        """The noise-free label, (P,): 1, 1/2 or 0; NaN where nobody knows."""
        difference = self.first_value - self.second_value
        return np.where(np.isnan(difference), np.nan, (np.sign(difference) + 1.0) / 2.0)

    @property
    def same_user(self) -> NDArray[np.bool_]:
        """Whether both segments are of one user, (P,)."""
        return self.first_user == self.second_user

    @property
    def equal_lengths(self) -> bool:
        """Whether all segments have one length."""
        lengths = np.concatenate([self.first_end - self.first_start, self.second_end - self.second_start])
        return bool(lengths.size == 0 or (lengths == lengths[0]).all())

    def of(self, split: str) -> Pairs:
        """Labelled pairs of one split."""
        return self[(self.split == SPLITS.index(split)) & ~np.isnan(self.preferred)]

    def labelled(self, preferred: Float64) -> Pairs:
        """The same pairs with other labels."""
        return replace(self, preferred=preferred)

    def write(self, path: Path, notes: Mapping[str, str] | None = None) -> None:
        """Write atomically as Parquet, with ``notes`` in its metadata."""
        table = pa.table({f.name: getattr(self, f.name) for f in fields(self)})
        with atomic_path(path) as temporary:
            pq.write_table(table.replace_schema_metadata(dict(notes or {})), temporary, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> tuple[Pairs, dict[str, str]]:
        """Pairs and notes.

        **Errors**: :class:`StorageError` for a missing or broken file.
        """
        try:
            table = pq.read_table(path)
            notes = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items() if not key.startswith(b"ARROW")}
            return cls(**{f.name: table[f.name].to_numpy() for f in fields(cls)}), notes
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise StorageError(
                f"preferences cannot be read: {str(error).splitlines()[0]}", where=str(path), mend="label again with `recrl prefer`"
            ) from None


def draw_pairs(windows: Windows, config: PairConfig, seed: int) -> Pairs:
    """Pairs without labels: users are split, then pairs are drawn in each part; a function of windows, options and seed alone.

    Where a part has too few windows for a kind of pair, it has fewer of them.

    **Errors**: :class:`DataError` when the training users give no pair at all.
    """
    streams = Streams(seed)
    place = streams.uniform(windows.user, 0, Purpose.SPLITS)
    part = np.searchsorted(np.cumsum(config.shares)[:2], place, side="right")
    drawn = []
    for number, wanted in enumerate((config.pairs, config.held_out, config.held_out)):
        at = np.flatnonzero(part == number)
        inside = round(config.within * wanted)
        both = [_within(windows.user[at], inside, streams, number), _across(windows.user[at], wanted - inside, streams, number)]
        couple = np.concatenate(both, axis=1)
        # kinds mixed, so that any first pairs are a fair sample
        couple = couple[:, streams.permutation(couple.shape[1], 10 + number, Purpose.CANDIDATES)]
        drawn.append((at[couple], number))
    if drawn[0][0].size == 0:
        raise DataError("training users give no pair of segments", where="pairs", mend="take a longer log, or cut shorter segments")
    first, second = np.concatenate([couple for couple, _ in drawn], axis=1)
    split = np.concatenate([np.full(couple.shape[1], number, dtype=np.int8) for couple, number in drawn])
    unknown = np.full(first.size, np.nan)
    ranges = (windows.start[first], windows.end[first], windows.start[second], windows.end[second])
    return Pairs(*ranges, windows.user[first], windows.user[second], split, unknown, unknown, unknown)


def _within(user: Int64, count: int, streams: Streams, part: int) -> Int64:
    """Places of two windows of one user, (2, count)."""
    _, first, many = np.unique(user, return_index=True, return_counts=True)
    usable = np.flatnonzero(np.repeat(many, many) > 1)
    if usable.size == 0 or count == 0:
        return np.zeros((2, 0), dtype=np.int64)
    draw = streams.uniform(np.arange(count), 2 * part, Purpose.CANDIDATES, (2,))
    one = usable[(draw[:, 0] * usable.size).astype(np.int64)]
    begin, size = np.repeat(first, many)[one], np.repeat(many, many)[one]
    other = begin + (draw[:, 1] * (size - 1)).astype(np.int64)
    return np.stack([one, other + (other >= one)])


def _across(user: Int64, count: int, streams: Streams, part: int) -> Int64:
    """Places of two windows of two users, (2, at most count)."""
    if user.size == 0 or count == 0:
        return np.zeros((2, 0), dtype=np.int64)
    draw = (streams.uniform(np.arange(count), 2 * part + 1, Purpose.CANDIDATES, (1 + _TRIES,)) * user.size).astype(np.int64)
    one, others = draw[:, 0], draw[:, 1:]
    differs = user[others] != user[one][:, None]
    other = others[np.arange(count), differs.argmax(1)]
    return np.stack([one, other])[:, differs.any(1)]


def teach(trajectories: Trajectories, windows: Windows, pairs: Pairs, task: PreferenceTask, teacher: Teacher, seed: int) -> Pairs:
    """The pairs with a scripted teacher's labels; values are measured in deviations of the training users' segments."""
    views = [replace(windows, start=s, end=e, judged_end=_judged(windows, s), user=u) for s, e, u in _sides(pairs)]
    train = pairs.split == 0
    seen: list[list[Float64]] = []
    for discount in (1.0, teacher.discount):
        found = [signals(trajectories, view, discount) for view in views]
        depth, gap = (np.concatenate([side[k][train] for side in found]) for k in range(2))
        yardstick = Yardstick.of(depth, gap)
        seen.append([yardstick.value(task, *side) for side in found])
    clean, perceived = seen
    deviation = float(np.concatenate([side[train] for side in perceived]).std()) or 1.0
    preferred = teacher.label(perceived[0], perceived[1], deviation, Streams(seed))
    return replace(pairs, preferred=preferred, first_value=clean[0], second_value=clean[1])


def _sides(pairs: Pairs) -> list[tuple[Int64, Int64, Int64]]:
    return [(pairs.first_start, pairs.first_end, pairs.first_user), (pairs.second_start, pairs.second_end, pairs.second_user)]


def _judged(windows: Windows, start: Int64) -> Int64:
    order = np.argsort(windows.start)
    return windows.judged_end[order][np.searchsorted(windows.start[order], start)]


class PairBatches:
    """Batches of labelled pairs, drawn uniformly with replacement; batch ``step`` is a function of seed and ``step`` alone.

    **Errors**: :class:`DataError` without a labelled pair.
    """

    def __init__(self, trajectories: Trajectories, pairs: Pairs, seed: int) -> None:
        self.trajectories, self.pairs = trajectories, pairs
        if len(pairs) == 0 or bool(np.isnan(pairs.preferred).any()):
            raise DataError(
                "no labelled pairs to learn from", where="PairBatches.pairs", mend="label some first; skipped ones teach nothing"
            )
        self._streams = Streams(seed)

    def sample(self, size: int, step: int) -> tuple[Transitions, Tensor]:
        """``2 size`` segments (the first ones, then the second ones) and labels (size,)."""
        draw = self._streams.uniform(np.arange(size), step, Purpose.BATCHES)
        return self.gather(self.pairs[(draw * len(self.pairs)).astype(np.int64)])

    def gather(self, pairs: Pairs) -> tuple[Transitions, Tensor]:
        """The segments of some pairs, likewise."""
        start, end = (np.concatenate(side) for side in ((pairs.first_start, pairs.second_start), (pairs.first_end, pairs.second_end)))
        batch = self.trajectories.take(start, end)
        return batch, torch.from_numpy(pairs.preferred.astype(np.float32)).to(batch.reward.device)


def segment_ids(segments: Offsets, device: torch.device) -> Tensor:
    """The segment of each row, (N,), on the device."""
    return torch.from_numpy(segments.segment_ids()).to(device)
