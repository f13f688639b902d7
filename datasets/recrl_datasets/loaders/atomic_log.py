"""How ``NAME.inter`` of RecBole's atomic files becomes a log: which field is what, and in which unit it counts time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import ConfigError, DataError
from recrl_datasets.loaders.reading import PolarsType, TextTable, read_text_pieces, text_header
from recrl_datasets.schema import BY_NAME, EARLIEST_MS, LATEST_MS, Origin, nearest, validate_log
from recrl_datasets.tables import Finding

TimeUnit = Literal["auto", "s", "ms", "us", "rows"]

_KINDS = ("token", "token_seq", "float", "float_seq")
_UNITS = {"s": (1000.0, "seconds"), "ms": (1.0, "milliseconds"), "us": (0.001, "microseconds")}
_TEXTS = ("id", "category", "date", "vector")
_FIRST_ROW_MS = 946_684_800_000  # 2000-01-01, where times are made up
_CORRECT = "correct the value, or leave the line out"


@dataclass(frozen=True)
class AtomicOptions:
    """What a user says about the fields of ``NAME.inter``; see :func:`recrl_datasets.from_atomic`."""

    columns: Mapping[str, str]
    feedback: Mapping[str, str]
    timestamp_unit: TimeUnit

    def __post_init__(self) -> None:
        _refuse_unknown(self.columns, BY_NAME, "a column of the log schema", "columns")
        _refuse_unknown(self.feedback, BEHAVIOURS, "a behaviour", "feedback")
        _refuse_unknown((self.timestamp_unit,), ("auto", *_UNITS, "rows"), "a unit of time", "timestamp_unit")

    def rule(self, behaviour: str) -> tuple[str, float | None]:
        """The field that makes a behaviour, and the least value that counts, ``None`` where the field itself is 0 or 1."""
        field, colon, least = self.feedback[behaviour].partition(":")
        try:
            value = float(least) if colon else None
        except ValueError:
            value = math.nan
        if not field or (value is not None and not math.isfinite(value)):
            raise ConfigError(
                f"{self.feedback[behaviour]!r} does not say what makes {behaviour!r}",
                where="feedback",
                mend="give a field of 0 and 1, or a field and the least value that counts (rating:3)",
            )
        return field, value


def _refuse_unknown(given: Iterable[str], known: Iterable[str], what: str, where: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{name!r} is not {what}", where=where, mend=f"{nearest(name, known)}there are: {', '.join(known)}")


def typed_fields(path: Path) -> dict[str, str]:
    """Field -> kind, from the header of an atomic file.

    **Errors**: :class:`DataError` for a column without a type, and for a field that is there twice.
    """
    fields: dict[str, str] = {}
    for column in text_header(path, "\t"):
        field, _, kind = column.rpartition(":")
        if not field or kind not in _KINDS:
            raise DataError(
                f"column {column!r:.80} has no type of atomic files",
                where=f"{path}, line 1",
                mend=f"write the header as field:type, the type one of {', '.join(_KINDS)}",
            )
        if field in fields:
            raise DataError(
                f"field {field!r} appears twice (as {fields[field]} and as {kind})",
                where=f"{path}, line 1",
                mend="remove or rename one of them",
            )
        fields[field] = kind
    return fields


def missing_field(field: str, fields: Iterable[str], where: str, mend: str) -> DataError:
    """An error about a field that is not there, with the nearest that is."""
    what = f"there is no field {field!r}; there are: {', '.join(fields)}"
    return DataError(what[:400], where=where, mend=f"{nearest(field, fields)}{mend}")


class AtomicLog:
    """The plan by which one ``NAME.inter`` is read; ``names`` maps schema columns to fields.

    **Errors**: :class:`DataError` for a field that is not there; :class:`ConfigError` for a rule that asks for numbers of a text.
    """

    def __init__(self, path: Path, options: AtomicOptions, findings: list[Finding]) -> None:
        self.path, self.unit, self._findings = path, options.timestamp_unit, findings
        self._fields = typed_fields(path)
        self.names = self._mapped(options)
        self._rules = {behaviour: options.rule(behaviour) for behaviour in options.feedback}
        for behaviour, (field, _) in self._rules.items():
            if field not in self._fields:
                raise missing_field(field, self._fields, f"feedback: {behaviour}", f"name a field of {path.name}")
        used = {*self.names.values(), *(field for field, _ in self._rules.values())}
        self._extras = [field for field in self._fields if field not in used and self._why_not(field) is None]
        findings.extend(
            Finding("column left out", 1, "info", f"{path.name}: field {field!r} was left out: {why}")
            for field in self._fields
            if field not in used and (why := self._why_not(field)) is not None
        )
        texts = {field for ours, field in self.names.items() if BY_NAME[ours].kind in _TEXTS}
        for name, field in [*self.names.items(), *((behaviour, field) for behaviour, (field, _) in self._rules.items())]:
            if field in texts and BY_NAME[name].kind not in _TEXTS:
                raise ConfigError(f"field {field!r} cannot be text and a number", where=f"columns, feedback: {name}", mend="map it once")
        texts |= {field for field in self._extras if self._fields[field] == "token"}
        self._types: dict[str, PolarsType] = {self._column(f): pl.String if f in texts else pl.Float64 for f in (*used, *self._extras)}
        if not any(name in BEHAVIOURS for name in (*self.names, *self._rules)):
            note = "no field says what counts as a behaviour; feedback names one (click=rating:3)"
            findings.append(Finding("no behaviours", 1, "warning", note))

    def _column(self, field: str) -> str:
        return f"{field}:{self._fields[field]}"

    def _why_not(self, field: str) -> str | None:
        """Why a field that nothing maps is not kept as an extra column."""
        if field in BY_NAME:
            return "another field, or none, is mapped to that name"
        return "a sequence has no place in a log" if self._fields[field].endswith("_seq") else None

    def _mapped(self, options: AtomicOptions) -> dict[str, str]:
        names: dict[str, str] = {}
        for ours in BY_NAME:
            field = options.columns.get(ours, "timestamp" if ours == "timestamp_ms" else ours)
            if field in self._fields and ours not in options.feedback:
                names[ours] = field
            elif field and ours in options.columns:
                raise missing_field(field, self._fields, f"columns: {ours}", f"name a field of {self.path.name}")
        needed = {"user_id": "user_id", "item_id": "item_id", "timestamp_ms": "timestamp"}
        mend = "say which it is with columns ({}=FIELD)"
        if self.unit == "rows":
            names.pop("timestamp_ms", None)
            del needed["timestamp_ms"]
        for ours, field in needed.items():
            if ours not in names:
                rows = "; timestamp_unit rows makes times of the rows' order" if ours == "timestamp_ms" else ""
                free = [f for f in self._fields if f not in names.values()]
                raise missing_field(field, free, f"{self.path}, line 1", mend.format(ours) + rows)
        return names

    def pieces(self) -> Iterator[pl.DataFrame]:
        """Validated rows, piece by piece."""
        unit, rows = self.unit, 0
        for table in read_text_pieces(self.path, self._types, required=self._types, separator="\t"):
            unit = self._unit_of(table) if unit == "auto" else unit
            yield self._log(table, unit, rows)
            rows += table.frame.height
        if unit == "rows":
            note = "times are made up, one second a row in the order of the file: sessions, gaps and return laws mean nothing"
            self._findings.append(Finding("no times", rows, "warning", note))

    def _unit_of(self, table: TextTable) -> TimeUnit:
        """The unit in which the first time is one of 1990 to 2100: in three units these are ranges that do not touch."""
        times = table.frame[self._column(self.names["timestamp_ms"])].fill_nan(None).drop_nulls()
        first = float(times[0]) if times.len() else float(EARLIEST_MS)
        for unit in ("s", "ms", "us"):
            if EARLIEST_MS <= first * _UNITS[unit][0] < LATEST_MS:
                return unit
        raise DataError(
            f"field {self.names['timestamp_ms']!r} holds {first:g}: not a time of 1990 to 2100 in seconds, milli- or microseconds",
            where=f"{self.path}, {table.row(0)}",
            mend="give seconds since 1970 UTC, or timestamp_unit rows where only the order is known",
        )

    def _log(self, table: TextTable, unit: TimeUnit, rows: int) -> pl.DataFrame:
        frame = table.frame.select(
            *(_read(ours, self._column(field)) for ours, field in self.names.items()),
            *(_behaviour(behaviour, self._column(field), least) for behaviour, (field, least) in self._rules.items()),
            *(pl.col(self._column(field)).alias(field) for field in self._extras),
        )
        labels = {ours: self._column(field) for ours, field in self.names.items()}
        labels |= {behaviour: self._column(field) for behaviour, (field, _) in self._rules.items()}
        origin = Origin(str(self.path), labels, row=table.row)
        if unit == "rows":
            times = pl.int_range(rows, rows + pl.len(), dtype=pl.Int64) * 1000 + _FIRST_ROW_MS
            return validate_log(frame.with_columns(times.alias("timestamp_ms")), origin)
        scale, words = _UNITS[unit]
        values = frame["timestamp_ms"] * scale
        odd = ~values.is_between(EARLIEST_MS, LATEST_MS, closed="left") & values.is_not_nan()
        error = origin.bad_value(
            frame, "timestamp_ms", odd, f"not a time of 1990 to 2100 in {words}", f"{_CORRECT}; or give timestamp_unit"
        )
        if error is not None:
            raise error
        return validate_log(frame.with_columns(values.round().alias("timestamp_ms")), origin)


def _read(ours: str, column: str) -> pl.Expr:
    kind, value = BY_NAME[ours].kind, pl.col(column)
    if kind == "vector":
        value = split(value).cast(pl.List(pl.Float64), strict=False)
    elif kind in _TEXTS:
        value = value.str.strip_chars()
    return value.alias(ours)


def _behaviour(name: str, column: str, least: float | None) -> pl.Expr:
    # polars orders NaN above every number: a missing value is no click
    value = pl.col(column).fill_nan(None)
    return (value if least is None else value >= least).alias(name)


def split(text: pl.Expr) -> pl.Expr:
    """The parts of a sequence: split at blanks, without empty ones."""
    return text.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
