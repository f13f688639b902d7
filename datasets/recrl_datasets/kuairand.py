"""KuaiRand-Pure in its official folder layout: one or more of three logs, and user and video features where they are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from recrl.core.errors import StorageError
from recrl_datasets.reading import PolarsType, find_file, read_text_table
from recrl_datasets.schema import Origin, validate_key, validate_log
from recrl_datasets.tables import DatasetSource, Finding, RawTables

_LOGS = ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv", "log_random_4_22_to_5_08_pure.csv")
_USERS, _BASIC, _STATISTIC = "user_features_pure.csv", "video_features_basic_pure.csv", "video_features_statistic_pure.csv"

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


def kuairand_pure_files(root: Path | None) -> dict[str, Path]:
    """The files of KuaiRand-Pure that are in ``root/data`` or ``root``, by official name, plain or ``.gz``; at least one log.

    **Errors**: :class:`StorageError` that says which files were looked for.
    """
    base = Path("." if root is None else root)
    for folder in (base / "data", base):
        found = {name: find_file(folder, name) for name in (*_LOGS, _USERS, _BASIC, _STATISTIC)}
        if any(found[name] for name in _LOGS):
            return {name: path for name, path in found.items() if path is not None}
    what = "there is no such folder" if not base.is_dir() else f"neither {base / 'data'} nor {base} holds one of {', '.join(_LOGS)}"
    raise StorageError(
        f"no KuaiRand-Pure log found: {what}",
        where=str(base),
        mend="give the folder that was unpacked (the one with data/ in it) as --root",
    )


def load_kuairand_pure(root: Path | None) -> RawTables:
    """Read KuaiRand-Pure; rows shown at random (``is_rand = 1``) are kept apart, from whichever log they come."""
    files = kuairand_pure_files(root)
    findings: list[Finding] = []
    logs = pl.concat([_log(files[name], findings) for name in _LOGS if name in files])
    shown_at_random = logs["is_random_exposure"] == 1
    random = logs.filter(shown_at_random) if shown_at_random.any() else None
    users = _users(files[_USERS]) if _USERS in files else None
    basic = _basic(files[_BASIC]) if _BASIC in files else None
    statistic = _statistic(files[_STATISTIC]) if _STATISTIC in files else None
    leaky = () if statistic is None else tuple(name for name in statistic.columns if name != "item_id")
    if leaky:
        findings.append(
            Finding(
                "leaky item statistics",
                len(leaky),
                "warning",
                "video statistics average a month that overlaps the log: features leave them out",
            )
        )
    items = basic if statistic is None else statistic if basic is None else basic.join(statistic, on="item_id", how="full", coalesce=True)
    return RawTables(logs.filter(~shown_at_random) if random is not None else logs, random, users, items, tuple(findings), leaky)


def _log(path: Path, findings: list[Finding]) -> pl.DataFrame:
    table = read_text_table(path, _LOG_TYPES, required=(*_NAMES.values(), *_EXTRAS))
    findings.extend(
        Finding("column left out", 1, "info", f"{path.name}: column {name!r} is not KuaiRand's and was left out")
        for name in table.frame.columns
        if name not in _LOG_TYPES
    )
    frame = table.frame.select(*(pl.col(source).alias(name) for name, source in _NAMES.items()), *_EXTRAS)
    return validate_log(frame, Origin(str(path), _NAMES, _SCALES, table.row))


def _features(path: Path, key: str, source: str, types: Mapping[str, PolarsType]) -> pl.DataFrame:
    table = read_text_table(path, {source: pl.Int64, **types}, required=(source,), quote='"')
    frame = table.frame.rename({source: key}) if source != key else table.frame
    ids = validate_key(frame[key], Origin(str(path), {key: source}, row=table.row))
    # codes are categories, not quantities; some files write 3 as 3.0
    codes = [name for name in frame.columns if frame[name].dtype == pl.String]
    return frame.with_columns(ids, *(pl.col(name).str.strip_suffix(".0") for name in codes))


def _users(path: Path) -> pl.DataFrame:
    return _features(path, "user_id", "user_id", dict.fromkeys(_COUNTS, pl.Int64))


def _basic(path: Path) -> pl.DataFrame:
    frame = _features(path, "item_id", "video_id", dict.fromkeys(_SIZES, pl.Float64))
    if "upload_dt" in frame.columns:
        frame = frame.with_columns(pl.col("upload_dt").str.to_date("%Y-%m-%d", strict=False))
    if "tag" in frame.columns:
        frame = frame.with_columns(pl.col("tag").str.split(","))
    return frame


def _statistic(path: Path) -> pl.DataFrame:
    # every column but the id is a number
    header = read_text_table(path, {}, required=("video_id",), quote='"').frame.columns
    return _features(path, "item_id", "video_id", {name: pl.Float32 for name in header if name != "video_id"})


KUAIRAND_PURE = DatasetSource(
    name="kuairand-pure",
    title="KuaiRand-Pure: short-video feed of Kuaishou, April and May 2022, seven behaviours, watch time, random exposure",
    licence="CC BY-SA 4.0",
    citation="Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 2022",
    needs_root=True,
    files=kuairand_pure_files,
    load=load_kuairand_pure,
    notes=(
        "holds candidate videos only, about one row in a session: session depth is thinned",
        "video statistics average a month that overlaps the log: they are left out of features",
        "rows shown at random are kept apart (Store.random_log)",
    ),
)
