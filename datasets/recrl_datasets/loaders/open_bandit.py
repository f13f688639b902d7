"""The Open Bandit Dataset: what a fashion shop showed, with the probability of each item, logged by two policies in three campaigns.

Who saw a row is not told: every row is its own cluster, with a :class:`RowsAsClustersWarning`, and the four hashed features of the
visitor stand in the log beside it. Item numbers mean other items in another campaign, so a campaign is a dataset of its own;
its two logs share items and come together (``logger_id`` tells them apart) or one by one.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recrl.core.errors import MissingDependencyError, StorageError
from recrl_datasets.loaders.reading import INDEX, PolarsType, find_file, read_text_pieces, read_text_table, text_header
from recrl_datasets.schema import Origin, RowsAsClustersWarning, validate_key, validate_log
from recrl_datasets.tables import DatasetSource, Finding, RawTables

_LOGGERS, _CAMPAIGNS = ("random", "bts"), ("all", "men", "women")
_NAMES = {"item_id": "item_id", "timestamp_ms": "timestamp", "click": "click", "propensity": "propensity_score", "position": "position"}
_VISITOR = tuple(f"user_feature_{k}" for k in range(4))
_AFFINITY = "user-item_affinity_"
_TYPES: Mapping[str, PolarsType] = {
    **dict.fromkeys(("item_id", "position", "click"), pl.Int64),
    "propensity_score": pl.Float64,
    "item_feature_0": pl.Float64,
}
_FOLDERS = (".", "open_bandit_dataset", "obd")
_CLUSTERS = "the log does not tell who saw a row: every row is its own cluster; sessions, gaps and intervals by user mean little"


@dataclass(frozen=True)
class Selection:
    """One campaign, and the logs of it that are read.

    Attributes:
        campaign: ``all``, ``men`` or ``women``.
        loggers: ``random``, ``bts`` (Bernoulli Thompson sampling), or both.
    """

    campaign: str
    loggers: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name on the command line: ``open-bandit``, then the campaign where it is not ``all``, then the logger where it is one."""
        campaign = "" if self.campaign == "all" else f"-{self.campaign}"
        return f"open-bandit{campaign}" + ("" if len(self.loggers) > 1 else f"-{self.loggers[0]}")

    def files(self, root: Path | None) -> dict[str, Path]:
        """The logs and item tables in ``root``, or the small sample in the installed OBP (which is not imported); plain or ``.gz``.

        **Errors**: :class:`StorageError` that says which file was looked for; :class:`MissingDependencyError` without ``root`` and OBP.
        """
        base = _obp_folder() if root is None else root
        names = [f"{logger}/{self.campaign}/{file}.csv" for logger in self.loggers for file in (self.campaign, "item_context")]
        looked = [{name: find_file(base / folder, name) for name in names} for folder in _FOLDERS]
        best = max(looked, key=lambda found: sum(path is not None for path in found.values()))
        missing = [name for name, path in best.items() if path is None]
        if missing:
            mend = "give --root DIR, the folder with random/ and bts/ in it; without it OBP's small sample is read"
            if root is None:
                mend = "reinstall it: `pip install --no-deps --ignore-requires-python --force-reinstall obp==0.5.7`"
            what = f"the Open Bandit Dataset is not in {base}: {', '.join(missing)} not found"
            raise StorageError(what, where=str(base), mend=mend)
        return {name: path for name, path in best.items() if path is not None}

    def load(self, root: Path | None) -> RawTables:
        """Read the campaign; rows come in pieces, so that memory does not grow with them."""
        files = self.files(root)
        warnings.warn(_CLUSTERS, RowsAsClustersWarning, stacklevel=2)
        findings: list[Finding] = []
        if root is None:
            note = "the rows of each log that ship with OBP, a small part; --root reads the whole dataset"
            findings.append(Finding("a sample", len(self.loggers), "warning", note))
        return RawTables(lambda: self._rows(files, findings), items=self._items(files, findings), findings=findings)

    def _rows(self, files: Mapping[str, Path], findings: list[Finding]) -> Iterator[pl.DataFrame]:
        rows = 0
        for logger in self.loggers:
            path = files[f"{logger}/{self.campaign}/{self.campaign}.csv"]
            affinities = [name for name in text_header(path) if name.startswith(_AFFINITY)]
            types = {**_TYPES, **dict.fromkeys(affinities, pl.Float32)}
            for table in read_text_pieces(path, types, required=(*_NAMES.values(), *_VISITOR)):
                frame = _log(table.frame, Origin(str(path), _NAMES, row=table.row))
                yield frame.with_columns(
                    pl.int_range(rows, rows + pl.len(), dtype=pl.Int64).alias("user_id"),
                    pl.lit(logger).alias("logger_id"),
                    pl.lit(logger == "random").cast(pl.UInt8).alias("is_random_exposure"),
                )
                rows += frame.height
            note = f"{path.name} of {logger}: past clicks of the visitor on each item ({_AFFINITY}*) have no place in a log of rows"
            findings.append(Finding("columns left out", len(affinities), "info", note))
        findings.append(Finding("rows are their own clusters", rows, "warning", _CLUSTERS))

    def _items(self, files: Mapping[str, Path], findings: list[Finding]) -> pl.DataFrame:
        tables = [_item_table(files[f"{logger}/{self.campaign}/item_context.csv"]) for logger in self.loggers]
        for other in tables[1:]:
            both = tables[0].join(other, on="item_id", suffix=" other")
            same = set(other.columns) == set(tables[0].columns)
            same = same and all(_one_to_one(both[name], both[f"{name} other"]) for name in other.columns if name != "item_id")
            note = f"texts of item features are hashed apart in each log's table: those of {self.loggers[0]} are kept"
            findings.append(Finding("item features of one log", both.height, "info", note))
            if not same:
                findings.append(Finding("item features differ", both.height, "warning", "the logs' tables group the items differently"))
        return tables[0]

    @property
    def source(self) -> DatasetSource:
        """The register entry."""
        logs = (
            "both loggers"
            if len(self.loggers) > 1
            else {"random": "uniformly random", "bts": "Bernoulli Thompson sampling"}[self.loggers[0]]
        )
        return DatasetSource(
            name=self.name,
            title=f"Open Bandit Dataset, campaign {self.campaign!r}, {logs}: clicks in a fashion shop, with propensities",
            licence="CC BY 4.0",
            citation="Saito et al., Open Bandit Dataset and Pipeline: Towards Realistic and Reproducible Off-Policy Evaluation, 2021",
            needs_root=False,
            files=self.files,
            load=self.load,
            notes=(
                "no user ids: every row is its own cluster",
                "propensity is the chance of the item at its position; positions 1 to 3 become 0 to 2",
                "past clicks of the visitor on each item (user-item_affinity_*) are left out",
            ),
        )


def _log(frame: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    frame = frame.select(*(pl.col(theirs).alias(ours) for ours, theirs in _NAMES.items()), *_VISITOR)
    text = frame["timestamp_ms"]
    times = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
    odd = times.is_null() & text.is_not_null() & (text.str.strip_chars() != "")
    mend = "correct the value, or leave the line out"
    for name, bad, problem in (
        ("timestamp_ms", odd, "not a time such as 2019-11-24 00:00:17.004101+00:00"),
        ("position", ~frame["position"].is_between(1, 3), "not a place from 1 to 3"),
    ):
        error = origin.bad_value(frame, name, bad, problem, mend)
        if error is not None:
            raise error
    # a missing time or position is validate_log's to name
    return validate_log(frame.with_columns(times, pl.col("position") - 1), origin)


def _item_table(path: Path) -> pl.DataFrame:
    table = read_text_table(path, _TYPES, required=("item_id",))
    ids = validate_key(table.frame["item_id"], Origin(str(path), row=table.row))
    return table.frame.select(ids, pl.exclude("item_id", INDEX))


def _one_to_one(left: pl.Series, right: pl.Series) -> bool:
    pairs = pl.DataFrame([left.alias("left"), right.alias("right")]).unique()
    return pairs.height == left.n_unique() == right.n_unique()


def _obp_folder() -> Path:
    spec = importlib.util.find_spec("obp")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "the small sample of the Open Bandit Dataset comes with OBP, which is not installed",
            where="dataset open-bandit",
            mend="`pip install --no-deps --ignore-requires-python obp==0.5.7`, or give --root with the folder of the whole dataset",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "dataset" / "obd"


OPEN_BANDIT: tuple[DatasetSource, ...] = tuple(
    Selection(campaign, loggers).source for campaign in _CAMPAIGNS for loggers in (_LOGGERS, *((logger,) for logger in _LOGGERS))
)
"""Every campaign with both logs, and each log of it alone."""
