"""Delimited text in pieces: whatever their size, the rows, their lines and the errors are those of the file read whole."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.core.errors import DataError
from recrl_datasets.loaders.reading import TextTable, read_text_pieces, read_text_table, text_header

TYPES = {"id": pl.Int64, "share": pl.Float32}
REQUIRED = ("id",)

cells = st.tuples(
    st.integers(-9, 10**12).map(str),
    st.sampled_from(["", "0.5", "1", "-2.25"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='",\x1f'), max_size=4),
)
quoted = st.sampled_from(['"a,b"', '"two\nlines"', '"say ""x"""', '"\n\n"', '""'])


def plain(table: TextTable) -> pl.DataFrame:
    """A second look gives numbers in wider types."""
    return table.frame.with_columns(pl.col("share").cast(pl.Float32))


def words(table: TextTable) -> list[str]:
    return [table.row(index) for index in range(table.frame.height)]


@settings(max_examples=80)
@given(
    rows=st.lists(cells, min_size=1, max_size=12),
    texts=st.lists(st.one_of(st.none(), quoted), max_size=12),
    blank=st.lists(st.integers(0, 12), max_size=3),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    mark=st.booleans(),
    packed=st.booleans(),
    size=st.integers(1, 60),
)
def test_pieces_are_the_file(
    rows: list[tuple[str, ...]], texts: list[str | None], blank: list[int], end: str, last: bool, mark: bool, packed: bool, size: int
) -> None:
    lines = ["id,share,text", *(",".join(row) for row in rows)]
    for k, text in enumerate(texts[: len(rows)], start=1):
        if text is not None:
            lines[k] = ",".join((*lines[k].split(",")[:2], text))
    for place in blank:
        lines.insert(1 + place, "")
    content = (end.join(lines) + (end if last else "")).encode()
    content = b"\xef\xbb\xbf" + content if mark else content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
        whole = read_text_table(path, TYPES, required=REQUIRED, quote='"')
        pieces = list(read_text_pieces(path, TYPES, required=REQUIRED, quote='"', piece_bytes=size))
        assert text_header(path) == ["id", "share", "text"]
    assert all(piece.frame.height for piece in pieces)
    assert pl.concat([plain(piece) for piece in pieces]).equals(plain(whole))
    assert [word for piece in pieces for word in words(piece)] == words(whole)


MISTAKES = {
    "5,0.5": "2 fields instead of 3",
    "5,0.5,x,y": "4 fields instead of 3",
    "five,0.5,x": "column 'id' holds 'five': not a whole number",
    "5.5,0.5,x": "column 'id' holds '5.5': not a whole number",
    "5,half,x": "column 'share' holds 'half': not a number",
    "5,0.5,\udcff": "byte 0xff is not UTF-8 text",
    '5,0.5,"x': "broken text: unexpected end of data",
}


@settings(max_examples=60)
@given(
    before=st.integers(0, 9),
    after=st.integers(0, 9),
    mistake=st.sampled_from(sorted(MISTAKES)),
    size=st.integers(1, 90),
    packed=st.booleans(),
)
def test_a_mistake_is_named_with_its_line_whatever_the_pieces(before: int, after: int, mistake: str, size: int, packed: bool) -> None:
    content = "\n".join(("id,share,text", *["1,0.5,a"] * before, mistake, *["2,,b"] * after, "")).encode("utf-8", "surrogateescape")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
        with pytest.raises(DataError) as caught:
            list(read_text_pieces(path, TYPES, required=REQUIRED, quote='"', piece_bytes=size))
    assert caught.value.what == MISTAKES[mistake]
    assert caught.value.where == f"{path}, line {before + 2}"


@pytest.mark.parametrize("size", [1, 30, 1 << 20])
def test_files_without_a_header(size: int, tmp_path: Path) -> None:
    path = tmp_path / "movies.dat"
    path.write_bytes("1::Café (1995)::Drama|War\n2::a, b; c (1996)::Comedy\n\n3::d::\n".encode("latin-1"))
    options = {"separator": "::", "header": ("id", "title", "genres"), "encoding": "latin-1"}
    pieces = list(read_text_pieces(path, TYPES, required=REQUIRED, piece_bytes=size, **options))  # type: ignore[arg-type]
    assert pl.concat([piece.frame for piece in pieces]).rows() == [
        (1, "Café (1995)", "Drama|War"),
        (2, "a, b; c (1996)", "Comedy"),
        (3, "d", None),
    ]
    assert [word for piece in pieces for word in words(piece)] == ["line 1", "line 2", "line 4"]
    path.write_text("1\t2\t3\n")
    with pytest.raises(DataError) as caught:
        list(read_text_pieces(path, TYPES, required=REQUIRED, piece_bytes=size, **options))  # type: ignore[arg-type]
    assert caught.value.what == "columns are separated by tabs, not double colons"
    path.write_text("1::2::3\n\n1::2\n")
    with pytest.raises(DataError) as caught:
        list(read_text_pieces(path, TYPES, required=REQUIRED, piece_bytes=size, **options))  # type: ignore[arg-type]
    assert (caught.value.what, caught.value.where) == ("2 fields instead of 3", f"{path}, line 3")


def test_a_file_without_line_ends_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recrl_datasets.loaders.text_blocks.LONGEST_LINE", 1 << 20)
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,share,text\n1,2,a\n" + b"7" * (3 << 20))
    with pytest.raises(DataError) as caught:
        list(read_text_pieces(path, TYPES, required=REQUIRED, piece_bytes=1000))
    assert caught.value.what == "a line or a quoted text is longer than 1 MiB"
    assert caught.value.where == f"{path}, line 3"


def test_pieces_have_about_the_size_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,share,text\n" + "1,0.5,abcdefg\n" * 10_000)
    heights = [piece.frame.height for piece in read_text_pieces(path, TYPES, required=REQUIRED, piece_bytes=1400)]
    assert sum(heights) == 10_000
    assert max(heights) <= 101


@pytest.mark.parametrize("size", [5, 1 << 20])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"\n \n\n", "the file is empty"),
        (b"id,share\n", "the file has a header but no rows"),
        (b"id,share\n\n  \n", "the file has a header but no rows"),
        (b"id,share", "the file has a header but no rows"),
        (b"PK\x03\x04 zip", "the file is a zip archive"),
        (gzip.compress(b"id,share\n" + bytes(range(48, 58)) * 99, mtime=0)[:-9], "the gzip file is cut off or broken"),
    ],
)
def test_files_without_rows(size: int, content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_text_pieces(path, TYPES, required=REQUIRED, piece_bytes=size))
    assert caught.value.what == what
