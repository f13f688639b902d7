"""Any dataset in RecBole's atomic files: ``NAME.inter``, and ``NAME.user`` and ``NAME.item`` where they are there.

Atomic files are tab-separated text with a header of typed fields: ``field:token``, ``token_seq``, ``float`` or ``float_seq``.
Ids and tokens are text, as in RecBole, even where all are digits; sequences are split at blanks; quotes are part of a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import polars as pl

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, StorageError
from recrl_datasets.loaders.atomic_log import AtomicLog, AtomicOptions, TimeUnit, missing_field, split, typed_fields
from recrl_datasets.loaders.reading import TextTable, find_file, read_text_table
from recrl_datasets.loaders.registry import REGISTRY
from recrl_datasets.preparing import prepare_source
from recrl_datasets.schema import Origin, validate_key
from recrl_datasets.store import Store
from recrl_datasets.tables import DatasetSource, Finding, RawTables

_SUFFIXES = ("inter", "user", "item")


def from_atomic(
    folder: Path | str,
    name: str = "",
    *,
    columns: Mapping[str, str] | None = None,
    feedback: Mapping[str, str] | None = None,
    timestamp_unit: TimeUnit = "auto",
    stores: Path | str = "stores",
    force: bool = False,
    progress: Progress | None = None,
) -> Store:
    r"""Store a dataset in RecBole's atomic files. Interactions are read in pieces: memory does not grow with them.

    Args:
        folder: holds ``NAME.inter``.
        name: name of the store, default the files' ``NAME``.
        columns: schema name -> field, where they differ. ``timestamp`` and fields with a name of the schema map by themselves; an
            empty field leaves a schema column out. Other numbers and tokens become extra columns, sequences are left out.
        feedback: behaviour -> a field of 0 and 1 (``"label"``), or a field and the least value that counts (``"rating:3"``).
        timestamp_unit: ``s``, ``ms`` or ``us`` since 1970, or ``auto``: the one in which the first row lies in 1990 to 2100 (in three
            units these are ranges that do not touch); every other row must lie there, too. ``rows`` is for datasets without
            times: they are made up, one second a row.
        stores: folder of the stores.
        force: make the store again although one of the same files and options is there.
        progress: called with the finished share and a line of text.

    **Errors**: :class:`StorageError` for files that are not there; :class:`DataError` with file, line and value; :class:`ConfigError`
    for a bad option. Nothing half-written is left.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nann\tf7\t5\t1.7e9\nbob\tf9\t2\t1700000060\n"
    >>> _ = (folder / "films.inter").write_text(rows)
    >>> store = from_atomic(folder, feedback={"click": "rating:3"}, stores=folder / "stores")
    >>> store.name, store.log().column("click").tolist()
    ('films', [1, 0])
    """
    options = AtomicOptions(dict(columns or {}), dict(feedback or {}), timestamp_unit)
    base = Path(folder)
    stem = _stem(base, name)
    name = name or stem
    if name in REGISTRY:
        raise ConfigError(f"{name!r} is the name of a registered dataset", where="name", mend=f"choose another, such as {stem}-atomic")
    files = {suffix: path for suffix in _SUFFIXES if (path := find_file(base, f"{stem}.{suffix}")) is not None}
    source = DatasetSource(
        name=name,
        title=f"{stem}, from atomic files",
        licence="its owners' own (atomic files do not tell)",
        citation="",
        needs_root=True,
        files=lambda root: {path.name: path for path in files.values()},
        load=lambda root: _load(files, options, _left_out(base, stem)),
    )
    return prepare_source(source, base, options=json.dumps(asdict(options), sort_keys=True), stores=stores, force=force, progress=progress)


def _stem(folder: Path, name: str) -> str:
    """The NAME of NAME.inter: ``name`` if it is there, else the only one."""
    names = [path.name.removesuffix(".gz") for path in folder.glob("*.inter*")]
    stems = sorted({name.removesuffix(".inter") for name in names if name.endswith(".inter")})
    if name in stems or len(stems) == 1:
        return name if name in stems else stems[0]
    what, mend = "there is no such folder", "give the folder that holds NAME.inter"
    if stems:
        what, mend = f"which of {', '.join(stems)[:200]}?", "give the name of one of them, or join parts into one file"
    elif folder.is_dir():
        what = "there is no .inter file"
    raise StorageError(f"no atomic dataset found: {what}", where=str(folder), mend=mend)


def _left_out(folder: Path, stem: str) -> list[Finding]:
    read = {f"{stem}.{suffix}{packed}" for suffix in _SUFFIXES for packed in ("", ".gz")}
    others = sorted(path.name for path in folder.glob(f"{stem}.*") if path.name not in read)
    note = "knowledge graphs, links, networks and other tables are not read"
    return [Finding("file left out", 1, "info", f"{other}: {note}") for other in others]


def _load(files: Mapping[str, Path], options: AtomicOptions, findings: list[Finding]) -> RawTables:
    log = AtomicLog(files["inter"], options, findings)
    users, items = (
        _features(files[suffix], f"{suffix}_id", log.names[f"{suffix}_id"]) if suffix in files else None for suffix in ("user", "item")
    )
    return RawTables(log.pieces, users=users, items=items, findings=findings)


def _features(path: Path, key: str, field: str) -> pl.DataFrame:
    fields = typed_fields(path)
    if field not in fields:
        raise missing_field(field, fields, f"{path}, line 1", f"name the field of ids as in the .inter file, {field!r}")
    types = {f"{name}:{kind}": pl.Float64 for name, kind in fields.items() if kind == "float" and name != field}
    table = read_text_table(path, types, required=(), separator="\t")
    source = f"{field}:{fields[field]}"
    ids = validate_key(table.frame[source].str.strip_chars().alias(key), Origin(str(path), {key: source}, row=table.row))
    return pl.DataFrame([ids, *(_feature(table, name, kind) for name, kind in fields.items() if name not in (field, key))])


def _feature(table: TextTable, name: str, kind: str) -> pl.Series:
    column = f"{name}:{kind}"
    if not kind.endswith("_seq"):
        return table.frame[column].alias(name)
    parts = table.frame.select(split(pl.col(column)).alias(name)).to_series()
    if kind == "token_seq":
        return parts
    numbers = parts.cast(pl.List(pl.Float64), strict=False)
    odd = numbers.list.eval(pl.element().is_null()).list.any()
    error = Origin(str(table.path), {name: column}, row=table.row).bad_value(
        parts.to_frame(), name, odd, "not a sequence of numbers", "correct the value, or leave the line out"
    )
    if error is not None:
        raise error
    return numbers
