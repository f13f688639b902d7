"""The real datasets: counts that everybody relies on, and the numbers that stand in docs/data.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import recrl_datasets as rd

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def test_ml_100k(ml_100k: rd.Store) -> None:
    m = ml_100k.manifest
    assert (m.rows, m.users, m.items, m.duplicate_rows, m.random_rows) == (100_000, 943, 1_682, 0, 0)
    log = ml_100k.log()
    rating = log.column("rating")
    assert np.bincount(rating.astype(int)).tolist() == [0, 6110, 11370, 27145, 34174, 21201]
    assert (log.column("click") == (rating >= 3)).all()
    assert (log.column("long_view") == (rating >= 4)).all()
    assert (log.column("like") == (rating == 5)).all()
    assert not log.has("watch_seconds")
    assert ml_100k.items.filter(pl.col("item_id") == 1)["genres"].to_list() == [["Animation", "Children's", "Comedy"]]
    assert ml_100k.users.filter(pl.col("user_id") == 1).select("age", "gender", "occupation").rows() == [(24, "M", "technician")]


@pytest.mark.kuairand
class TestKuaiRandRows:
    def test_counts(self, kuairand: rd.Store) -> None:
        m = kuairand.manifest
        assert (m.rows, m.users, m.items, m.duplicate_rows, m.random_rows) == (181_932, 20_131, 6_176, 4_368, 0)
        assert {f.check: f.count for f in m.findings} == {
            "leaky item statistics": 51,
            "features of unknown users": 27_285 - 20_131,
            "features of unknown items": 7_583 - 6_176,
        }
        assert kuairand.log().n_rows == 177_564
        assert {"tab", "hourmin", "is_profile_enter", "profile_stay_time", "comment_stay_time"} < set(kuairand.log().columns)

    def test_rows_survive_unchanged(self, kuairand: rd.Store, kuairand_root: Path) -> None:
        raw = pl.read_csv(kuairand_root / "data" / "log_standard_4_22_to_5_08_pure.csv")
        frame = kuairand.log(include_duplicates=True).frame()
        back = frame.select(
            kuairand.users["user_id"][frame["user"]].alias("user_id"),
            kuairand.items["item_id"][frame["item"]].alias("video_id"),
            pl.col("local_date").cast(pl.Date).dt.strftime("%Y%m%d").cast(pl.Int64).alias("date"),
            pl.col("hourmin").cast(pl.Int64),
            pl.col("timestamp_ms").alias("time_ms"),
            *(pl.col(name).cast(pl.Int64).alias(f"is_{name}") for name in ("click", "like", "follow", "comment", "forward", "hate")),
            pl.col("long_view").cast(pl.Int64),
            (pl.col("watch_seconds").cast(pl.Float64) * 1000).round().cast(pl.Int64).alias("play_time_ms"),
            (pl.col("duration_seconds").cast(pl.Float64) * 1000).round().cast(pl.Int64).alias("duration_ms"),
            *(pl.col(name).cast(pl.Int64) for name in ("profile_stay_time", "comment_stay_time", "is_profile_enter")),
            pl.col("is_random_exposure").cast(pl.Int64).alias("is_rand"),
            pl.col("tab").cast(pl.Int64),
        )
        assert back.sort(pl.all()).equals(raw.sort(pl.all()))
        assert kuairand.manifest.duplicate_rows == raw.height - raw.unique().height

    def test_sessions_and_splits(self, kuairand: rd.Store) -> None:
        log = kuairand.log()
        for rule in ("gap", "day"):
            cut = rd.sessions(log, rule)
            assert (cut.users.through(cut.requests).through(cut.rows).values == log.user_offsets.values).all()
            assert cut.censored.sum() == 20_131
            assert cut.gap_whole_days[~cut.censored].min() == (1 if rule == "day" else 0)
        split = rd.split_by_time(log)
        assert split.train.column("timestamp_ms").max() < split.valid.column("timestamp_ms").min()
        features = rd.UserItemFeatures.fit(split.train, kuairand)
        assert np.isfinite(features.user).all()
        assert np.isfinite(features.item).all()
        assert not set(features.item_names) & {f"log1p({name})" for name in kuairand.manifest.leaky_items}

    def test_known_findings(self, kuairand: rd.Store) -> None:
        found = {row["check"]: row["count"] for row in rd.describe(kuairand)["data_quality"].iter_rows(named=True)}
        assert found["exact duplicate rows"] == 4_368
        assert found["local date differs from the clock"] == 1_691
        assert found["same user, item and time"] == 338

    def test_data_page_holds_the_measured_numbers(self, kuairand: rd.Store) -> None:
        text = PAGE.read_text()
        got = rd.describe(kuairand)
        for row in got["data_rates"].iter_rows(named=True):
            name, digits = (row["signal"], 5) if row["rate"] < 0.1 else (row["signal"], 4)
            if name == "watch_seconds":
                name, digits = "watch time, seconds a row", 2
            shown = [f"{row[k]:.{digits}f}".removeprefix("0") for k in ("rate", "lower", "upper")]
            assert re.search(
                rf"\| {re.escape(name)} \|[^|]*\| {re.escape(shown[0])} \| {re.escape(shown[1])} to {re.escape(shown[2])} \|", text
            ), (name, shown)
        gaps = got["data_gaps"]
        completed = gaps["completed"].to_numpy()
        for row in gaps.head(10).iter_rows(named=True):
            day = row["day"]
            derived = completed[day - 1] / completed[day - 1 :].sum()
            shown = [
                f"{v:.3f}".removeprefix("0")
                for v in (row["completed_share"], derived, row["hazard"], row["hazard_lower"], row["hazard_upper"])
            ]
            line = next(line for line in text.splitlines() if line.startswith(f"| {day} |"))
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert [cells[2], cells[4], cells[5], cells[6]] == [*shown[:3], f"{shown[3]} to {shown[4]}"]
        assert (
            f"{completed.sum():,} with mean {(completed * np.arange(1, completed.size + 1)).sum() / completed.sum():.3f} days (subset)"
            in text
        )
        log = kuairand.log()
        for one, other in re.findall(r"P\((\w+) given (\w+)\)", text):
            share = log.column(one)[log.column(other) == 1].mean()
            assert re.search(rf"P\({one} given {other}\) \|[^|]*\| {re.escape(f'{share:.3f}'.removeprefix('0'))} \|", text), (
                one,
                other,
                share,
            )
        by_gap, by_day = rd.sessions(log, "gap"), rd.sessions(log, "day")
        assert f"{by_gap.count:,} sessions by the 30-minute gap, {np.mean(by_gap.depth == 1):.1%}".replace("%", " %") in text
        assert f"depth {by_gap.depth.mean():.2f} on average" in text
        assert f"{by_day.count:,} by calendar day, depth {by_day.depth.mean():.2f} on average" in text
