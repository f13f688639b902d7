"""`recrl prefer`: answers typed at a terminal are kept one by one, gone on with, taken back; what is learned from them, too."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recrl.cli import main
from recrl.core.errors import StorageError
from recrl.policies import load_policy
from recrl.preferences.pairs import Pairs
from tests.support.children import until

LABEL = ["prefer", "--simulated", "60", "--pairs", "20", "--run", "mine"]
FAST = ["--steps", "20", "--log-every", "10", "--checkpoint-every", "10", "--batch-size", "16", "--prefrec.critic-hidden", "8"]
REWARD = ["--reward.hidden", "8", "--reward.pretraining-steps", "20", "--reward.check-every", "10", "--reward.batch-pairs", "8"]


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    """Run a command with answers on its standard input; the exit status, the JSON and what a reader sees."""
    monkeypatch.chdir(tmp_path)

    def call(answers: str, *words: str):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{answer}\n" for answer in answers)))
        status = main([*words, "--json"])
        out, err = capsys.readouterr()
        return status, json.loads(out.strip().splitlines()[-1]), err

    return call


def labels(folder: str = "runs/mine") -> list[float]:
    return Pairs.read(Path(folder) / "artifacts" / "preferences.parquet")[0].preferred.tolist()


def test_answers_are_kept_taken_back_and_gone_on_with(say):
    status, found, seen = say("1=xu2sq", *LABEL)
    assert status == 0
    assert (found["labelled"], found["skipped"], found["first"], found["second"], found["equal"]) == (2, 1, 1, 1, 0)
    assert labels()[:2] == [1.0, 0.0]
    assert np.isnan(labels()[2:]).all()
    assert "pair 1 of" in seen
    assert "back after" in seen
    assert seen.count("1 or 2: that one is better") == 2, "an unknown answer is met with the list of answers"
    fourth = seen[seen.index("pair 4 of") :].split("better?")[0]
    status, found, again = say("2", *LABEL)
    assert found["left"] == found["pairs"] - 4
    assert again[again.index("pair 4 of") :].split("better?")[0] == fourth, "the same pair in the same words"
    assert "pair 1 of" not in again
    status, found, seen = say("uuuuu", *LABEL)
    assert "nothing to undo" in seen
    assert found["left"] == found["pairs"]
    status, found, _ = say("1" * 30, *LABEL)
    assert found["left"] == 0
    assert set(labels()) == {1.0}


def test_the_order_of_pairs_is_the_seeds(say):
    _, _, first = say("", *LABEL)
    _, _, other = say("", *LABEL[:-1], "second", "--seed", "1")
    _, _, same = say("", *LABEL[:-1], "third")
    assert first.split("better?")[0].split("\n", 3)[3] == same.split("better?")[0].split("\n", 3)[3]
    assert first.split("better?")[0] != other.split("better?")[0]


def test_a_refused_write_loses_no_answer(say, monkeypatch):
    say("12", *LABEL)

    def refused(path):
        raise StorageError(f"cannot write {path.name}: No space left on device", where=str(path), mend="free some disk space")

    with monkeypatch.context() as patch:
        patch.setattr("recrl.preferences.pairs.atomic_path", refused)
        status, found, _ = say("1", *LABEL)
    assert status == 2
    assert "No space left" in found["error"]["what"]
    assert labels()[:2] == [1.0, 0.0]
    assert np.isnan(labels()[2:]).all()


def test_ctrl_c_keeps_what_was_labelled(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "recrl.cli", *LABEL],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("1\n2\n")
    process.stdin.flush()
    path = tmp_path / "runs/mine/artifacts/preferences.parquet"
    until(lambda: path.is_file() and Pairs.read(path)[1]["answered"] == "2", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything so far is kept" in said
    assert labels(str(tmp_path / "runs/mine"))[:2] == [1.0, 0.0]
    assert json.loads((tmp_path / "runs/mine/status.json").read_text())["state"] == "stopped"


def test_a_policy_is_learned_from_scripted_labels(say):
    _, found, _ = say("", "prefer", "--simulated", "100", "--pairs", "100", "--by", "both", "--run", "scripted")
    assert found["left"] == 0
    train = ["prefer", "train", "runs/scripted", "--prefrec.actor.hidden", "8", *FAST, *REWARD]
    status, found, _ = say("", *train)
    assert status == 0
    assert found["held_out"]
    assert set(found["simulated"]) == {"prefrec", "logging mean"}
    assert 0 < found["action_share"] < 1
    tables = Path(found["run"], "artifacts")
    assert pl.read_parquet(tables / "reward_calibration.parquet")["pairs"].sum() == found["judged_pairs"]
    assert "all" in pl.read_parquet(tables / "reward_accuracy.parquet")["kind"].to_list()
    pairs = pl.read_parquet(tables / "reward_pairs.parquet").filter(pl.col("split") == "test", pl.col("preferred") != 0.5)
    given = pl.read_parquet(tables / "reward_accuracy.parquet").row(by_predicate=pl.col("kind") == "given", named=True)
    right = (pairs["predicted"] > 0.5) == (pairs["preferred"] > 0.5)
    assert (pairs.height, right.mean()) == (given["pairs"], pytest.approx(given["right"])), "single pairs make up what is said of all"
    assert ((pairs["first_return"] > pairs["second_return"]) == (pairs["predicted"] > 0.5)).all()
    assert pairs["first_timeline"].str.contains(" requests ").all()
    assert load_policy(Path(found["policy"])).action_spec.shape == (6,)
    _, again, _ = say("", *train)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in found.items() if k != "seconds"}, (
        "a finished run is left alone"
    )


def test_a_log_is_labelled_and_learned_from(say, stores):
    asked = ["--data", "small", "--stores", str(stores), "--vector-size", "8"]
    words = ["--windows.length", "8", "--windows.stride", "8", "--pairs", "30", "--run", "log"]
    status, found, seen = say("12" * 20, "prefer", *asked, *words)
    assert (status, found["left"]) == (0, 0)
    assert "click" in seen
    train = ["prefer", "train", "runs/log", *asked, "--prefrec.actor.hidden", "8", *FAST, *REWARD]
    status, found, _ = say("", *train)
    assert status == 0
    assert load_policy(Path(found["policy"])).action_spec.kind == "item"
    status, found, _ = say("", *train[: -len(FAST + REWARD)], "--vector-size", "10")
    assert status == 2
    assert found["error"]["what"] == "the labels are of other data: vector_size differ"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prefer", "--simulated", "-1"], "simulated=-1 is negative"),
        (["prefer", "--pairs", "0"], "pairs=0 must be at least 1"),
        (["prefer", "--simulated", "20", "--windows.length", "900"], "no user has 900 rows"),
        (["prefer", "train", "absent"], "no run in absent"),
    ],
)
def test_mistakes_are_named(say, words, says):
    status, found, _ = say("", *words)
    assert status == 2
    assert says in found["error"]["what"]


def test_no_labels_and_unequal_timelines_are_refused(say):
    say("", *LABEL)
    status, found, _ = say("", "prefer", "train", "runs/mine")
    assert (status, found["error"]["what"]) == (2, "no labelled pair to learn from")
    say("", *LABEL[:5], "--by", "depth", "--windows.kind", "sessions", "--run", "sessions")
    status, found, _ = say("", "prefer", "train", "runs/sessions")
    assert status == 2
    assert "would learn that longer is better" in found["error"]["what"]
