"""KuaiRand-Pure, -1K and -27K in their official folder layouts: one or more of three logs, and features where they are there.

Logs and video features are read in pieces, so that memory does not grow with them. File names are those of the owners' README.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from recrl.core.errors import DataError, StorageError
from recrl_datasets.loaders.reading import PolarsType, TextTable, find_file, read_text_pieces, read_text_table, text_header
from recrl_datasets.schema import Origin, validate_key, validate_log
from recrl_datasets.tables import DatasetSource, Finding, RawTables

_NAMES = {
    "user_id": "user_id",
    "item_id": "video_id",
    "timestamp_ms": "time_ms",
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "comment": "is_comment",
    "follow": "is_follow",
    "forward": "is_forward",
    "hate": "is_hate",
    "watch_seconds": "play_time_ms",
    "duration_seconds": "duration_ms",
    "is_random_exposure": "is_rand",
    "local_date": "date",
}
_EXTRAS = ("hourmin", "profile_stay_time", "comment_stay_time", "is_profile_enter", "tab")
_SCALES = {"watch_seconds": 0.001, "duration_seconds": 0.001}
_LOG_TYPES: Mapping[str, PolarsType] = {
    **dict.fromkeys((*_NAMES.values(), *_EXTRAS), pl.Int32),
    **dict.fromkeys(("user_id", "video_id", "time_ms"), pl.Int64),
}
_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_SIZES = ("video_duration", "server_width", "server_height")


@dataclass(frozen=True)
class _Version:
    """One of the three versions: its name, the ending of its files, and in how many parts the two large kinds come."""

    name: str
    ending: str
    log_parts: int = 1
    statistic_parts: int = 1

    def _parts(self, stem: str, parts: int) -> tuple[str, ...]:
        if parts == 1:
            return (f"{stem}_{self.ending}.csv",)
        return tuple(f"{stem}_{self.ending}_part{k}.csv" for k in range(1, parts + 1))

    @property
    def logs(self) -> tuple[tuple[str, ...], ...]:
        """The parts of each log."""
        standard = (self._parts(f"log_standard_{days}", self.log_parts) for days in ("4_08_to_4_21", "4_22_to_5_08"))
        return (*standard, self._parts("log_random_4_22_to_5_08", 1))

    @property
    def users(self) -> str:
        return f"user_features_{self.ending}.csv"

    @property
    def basic(self) -> tuple[str, ...]:
        return self._parts("video_features_basic", 1)

    @property
    def statistic(self) -> tuple[str, ...]:
        return self._parts("video_features_statistic", self.statistic_parts)

    def files(self, root: Path | None) -> dict[str, Path]:
        """The files in ``root/data`` or ``root``, by official name, plain or ``.gz``; at least one log, every part of what is there.

        **Errors**: :class:`StorageError` that says which files were looked for.
        """
        base = Path("." if root is None else root)
        sets = (*self.logs, (self.users,), self.basic, self.statistic)
        for folder in (base / "data", base):
            found = {name: find_file(folder, name) for parts in sets for name in parts}
            if any(found[name] for parts in self.logs for name in parts):
                _refuse_missing_parts(sets, found, folder)
                return {name: path for name, path in found.items() if path is not None}
        logs = ", ".join(name for parts in self.logs for name in parts)
        what = "there is no such folder" if not base.is_dir() else f"neither {base / 'data'} nor {base} holds one of {logs}"
        raise StorageError(
            f"no {self.name} log found: {what}",
            where=str(base),
            mend="give the folder that was unpacked (the one with data/ in it) as --root",
        )

    def load(self, root: Path | None) -> RawTables:
        """Read this version; rows shown at random (``is_rand = 1``) are kept apart, from whichever log they come."""
        files = self.files(root)
        findings: list[Finding] = []
        logs, basic, statistic = (
            [files[name] for name in names if name in files] for names in (sum(self.logs, ()), self.basic, self.statistic)
        )
        leaky = [name for name in text_header(statistic[0]) if name != "video_id"] if statistic else []
        if leaky:
            note = "video statistics average a month that overlaps the log: features leave them out"
            findings.append(Finding("leaky item statistics", len(leaky), "warning", note))
        tables = ((basic, dict.fromkeys(_SIZES, pl.Float64)), (statistic, dict.fromkeys(leaky, pl.Float32)))
        return RawTables(
            log=lambda: _log(logs, findings),
            separate_random=True,
            users=_users(files[self.users]) if self.users in files else None,
            items=[partial(_videos, paths, types) for paths, types in tables if paths] or None,
            findings=findings,
            leaky_items=tuple(leaky),
        )


def _refuse_missing_parts(sets: Iterable[tuple[str, ...]], found: Mapping[str, Path | None], folder: Path) -> None:
    for parts in sets:
        missing = [name for name in parts if not found[name]]
        if missing and len(missing) < len(parts):
            raise StorageError(
                f"{', '.join(missing)} not found: the table comes in {len(parts)} parts",
                where=str(folder),
                mend="put every part there, or take away those that are there",
            )


def _log(paths: Sequence[Path], findings: list[Finding]) -> Iterator[pl.DataFrame]:
    """Validated rows of logs that follow one another."""
    for path in paths:
        unknown: set[str] = set()
        for table in read_text_pieces(path, _LOG_TYPES, required=(*_NAMES.values(), *_EXTRAS)):
            unknown.update(name for name in table.frame.columns if name not in _LOG_TYPES)
            frame = table.frame.select(*(pl.col(source).alias(name) for name, source in _NAMES.items()), *_EXTRAS)
            yield validate_log(frame, Origin(str(path), _NAMES, _SCALES, table.row))
        findings.extend(
            Finding("column left out", 1, "info", f"{path.name}: column {name!r} is not KuaiRand's and was left out")
            for name in sorted(unknown)
        )


def _users(path: Path) -> pl.DataFrame:
    types = {"user_id": pl.Int64, **dict.fromkeys(_COUNTS, pl.Int64)}
    return _features(read_text_table(path, types, required=("user_id",), quote='"'), "user_id", "user_id")


def _videos(paths: Sequence[Path], types: Mapping[str, PolarsType]) -> Iterator[pl.DataFrame]:
    """Features from the parts of one table."""
    columns = text_header(paths[0])
    for path in paths:
        odd = set(columns) ^ set(text_header(path))
        if odd:
            raise DataError(
                f"{path.name} and {paths[0].name} are parts of one table, yet only one of them has: {', '.join(sorted(odd))}",
                where=str(path),
                mend="download or copy both again",
            )
        for table in read_text_pieces(path, {"video_id": pl.Int64, **types}, required=("video_id",), quote='"'):
            yield _features(table, "item_id", "video_id")


def _features(table: TextTable, key: str, source: str) -> pl.DataFrame:
    frame = table.frame.rename({source: key}) if source != key else table.frame
    ids = validate_key(frame[key], Origin(str(table.path), {key: source}, row=table.row))
    # codes are categories, not quantities; some files write 3 as 3.0
    codes = [name for name in frame.columns if frame[name].dtype == pl.String]
    frame = frame.with_columns(ids, *(pl.col(name).str.strip_suffix(".0") for name in codes))
    if "upload_dt" in frame.columns:
        frame = frame.with_columns(pl.col("upload_dt").str.to_date("%Y-%m-%d", strict=False))
    if "tag" in frame.columns:
        frame = frame.with_columns(pl.col("tag").str.split(","))
    return frame


def _source(version: _Version, title: str, *notes: str) -> DatasetSource:
    return DatasetSource(
        name=version.name.lower(),
        title=f"{version.name}: short-video feed of Kuaishou, April and May 2022, seven behaviours, watch time, random exposure{title}",
        licence="CC BY-SA 4.0",
        citation="Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 2022",
        needs_root=True,
        files=version.files,
        load=version.load,
        notes=(
            *notes,
            "video statistics average a month that overlaps the log: they are left out of features",
            "rows shown at random are kept apart (Store.random_log)",
        ),
    )


KUAIRAND = (
    _source(
        _Version("KuaiRand-Pure", "pure"),
        "",
        "holds candidate videos only, about one row in a session: session depth is thinned",
    ),
    _source(_Version("KuaiRand-1K", "1k"), "; whole logs of 1,000 users"),
    _source(
        _Version("KuaiRand-27K", "27k", log_parts=2, statistic_parts=3),
        "; whole logs of 27,285 users",
        "46 GB of text: read in pieces, sorted on disk (about as much free disk as its logs take)",
    ),
)
"""The three versions of KuaiRand."""
