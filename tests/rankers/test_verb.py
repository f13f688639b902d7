"""``recrl train`` with a ranker: what it prints, what it leaves, and the user's mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

import recrl_datasets as rd
from recrl.cli import main
from recrl.console import Talk
from recrl.pipeline.learn import LearnConfig
from recrl.pipeline.rank import RankConfig
from recrl.verbs.replay import learners
from tests.rankers.conftest import taste_frame

BRIEF = ["--ranker.recbole.epochs", "1", "--ranker.recbole.embedding-size", "8", "--ranker.lightgbm.trees", "5"]


@pytest.fixture
def asked(stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ["--data", "taste", "--stores", str(stores), *BRIEF]


def call(capfd, *words):
    assert main([*words, "--json"]) == 0
    out, _ = capfd.readouterr()
    (line,) = out.strip().splitlines()
    return json.loads(line)


@pytest.mark.parametrize("name", ["lightgcn", "gru4rec", "lightgbm"])
def test_a_ranker_becomes_a_policy_of_a_run(name, asked, capfd, monkeypatch):
    done = call(capfd, "train", name, *asked)
    assert (Path(done["policy"]) / "policy.json").is_file()
    assert {p.name for p in Path().iterdir()} == {"runs"}
    ranking = pl.read_parquet(Path(done["run"], "artifacts", "ranking.parquet"))
    assert ranking.to_dicts() == done["ranking"]
    assert ranking.select("part", "metric").rows() == [(p, m) for p in ("valid", "test") for m in ("recall@10", "ndcg@10")]
    assert set(ranking["positives"]) == {"long_view"}
    assert ranking["cases"].min() > 0
    assert pl.read_parquet(Path(done["run"], "metrics", f"train-{name}", "*.parquet")).columns == ["step", "name", "value"]
    # a run that is done is not trained again, and judges the log like any policy
    monkeypatch.setitem(sys.modules, "recbole", None)
    assert call(capfd, "train", name, *asked)["ranking"] == done["ranking"]
    estimated = call(capfd, "ope", done["run"], *asked[:4], "--vector-size", "8", "--behaviour-steps", "5", "--estimators", "snips")
    assert name in {row["policy"] for row in estimated["estimates"]}


@pytest.mark.parametrize("name", ["bpr", "sasrec", "lightgbm"])
def test_by_time_nothing_after_the_cut_matters(name, asked, tmp_path, capfd):
    """Two logs that differ in what was shown after the cut give the same policy, bit for bit."""
    frame = taste_frame()
    split = rd.split_by_time(rd.from_frame(frame, name="one", stores=tmp_path / "stores").log())
    first_test = int(split.test.column("timestamp_ms").min())
    items = frame["item_id"].to_numpy().copy()
    after = np.flatnonzero(frame["timestamp_ms"].to_numpy() >= first_test)
    items[after] = np.roll(items[after], 3)
    changed = frame.with_columns(pl.Series("item_id", items))
    assert not changed["item_id"].equals(frame["item_id"])
    rd.from_frame(changed, name="other", stores=tmp_path / "stores")
    weights = []
    for data in ("one", "other"):
        done = call(capfd, "train", name, "--data", data, "--stores", str(tmp_path / "stores"), *asked[4:])
        weights.append(load_file(Path(done["policy"]) / "weights.safetensors"))
        if name == "lightgbm":
            weights[-1]["booster"] = np.frombuffer((Path(done["policy"]) / "booster.txt").read_bytes(), np.uint8)
    one, other = weights
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)


MISTAKES = [
    (["bpr", "--ranker.positives", "joy"], ["unknown behaviour 'joy'", "choose all, click"]),
    (["bpr", "--ranker.positives", "hate"], ["the log has no column 'hate'"]),
    (["sasrec", "--ranker.temperature", "0"], ["temperature=0.0 must be positive"]),
    (["sasrec", "--ranker.recbole.settings", "seed=3"], ["seed is not for settings"]),
    (["sasrec", "--ranker.recbole.epochs", "0"], ["epochs=0 must be at least 1"]),
    (["bpr", "--ranker.order-as", "nowhere.inter"], ["nowhere.inter cannot be read"]),
    (["pop"], ["unknown algorithm 'pop'", "choose one of bc", "lightgbm"]),
]


@pytest.mark.parametrize(("words", "messages"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_mistakes(words, messages, asked, capfd):
    assert main(["train", *words, *asked[:4]]) == 2
    out, err = capfd.readouterr()
    said = " ".join((out + err).replace("│", " ").split())
    assert "Traceback" not in said
    assert all(message in said for message in messages), said
    assert not list(Path().rglob("policy.json"))


def test_another_file_is_not_an_order(asked, tmp_path, capfd):
    file = tmp_path / "other.inter"
    frame = taste_frame().select(pl.col("user_id").alias("user_id:token"), pl.col("item_id").alias("item_id:token"))
    frame.with_columns(pl.lit(0.0).alias("timestamp:float")).head(20).write_csv(file, separator="\t")
    assert main(["train", "bpr", *asked, "--ranker.positives", "all", "--ranker.order-as", str(file)]) == 2
    assert "does not hold the same" in capfd.readouterr().err
    file.write_text("a\tb\n1\t2\n")
    assert main(["train", "bpr", *asked, "--ranker.positives", "all", "--ranker.order-as", str(file)]) == 2
    assert "lacks user_id, item_id or timestamp" in capfd.readouterr().err


def test_without_recbole_the_mend_is_printed(asked, capfd, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "recbole"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "recbole", None)
    assert main(["train", "bpr", *asked]) == 2
    assert "pip install --no-deps recbole==1.2.1" in capfd.readouterr().err


def test_a_ranker_is_a_plan_like_any_learner():
    """What the demo would list to let SASRec take part."""
    plan = LearnConfig("sasrec")
    assert (plan.name, plan.is_ranker, plan.options) == ("sasrec", True, RankConfig())
    assert json.loads(json.dumps(plan.as_dict()))["options"]["split"] == "time"
    assert LearnConfig("bpr", label="bpr-small").name == "bpr-small"


def test_sasrec_takes_part_in_the_demo_where_recbole_is(capfd, monkeypatch):
    talk = Talk()
    assert [plan.name for plan in learners(100, talk)[:2]] == ["bc-item", "sasrec"], "the first plan clones the log"
    for name in [n for n in sys.modules if n.split(".")[0] == "recbole"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "recbole", None)
    rest = learners(100, talk)
    assert {plan.algorithm for plan in rest} == {"bc", "td3_bc"}
    assert rest[0].name == "bc-item"
    assert "SASRec takes no part: RecBole is not installed" in " ".join("".join(capfd.readouterr()).split())
