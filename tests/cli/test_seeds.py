"""Several seeds: a process and a run folder each, one that fails lets the others finish, Ctrl-C and death stop all and keep all."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from scipy import stats

from recrl.cli import main
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from recrl.pipeline.seeds import over_seeds, summarise
from recrl.verbs.seeds import RunOptions
from tests.conftest import REPOSITORY
from tests.support.children import until
from tests.support.seeds import Asked, work

PATHS = {**os.environ, "PYTHONPATH": os.pathsep.join(str(REPOSITORY / p) for p in (".", "datasets"))}


def state_of(folder: Path, seed: int) -> str:
    return RunFolder.open(folder / f"seed{seed}").status.effective_state


def test_a_failing_seed_lets_the_others_finish(tmp_path):
    does = {0: "ends", 1: "diverges", 2: "breaks", 3: "is killed", 4: "ends"}
    heard: list[tuple[int, float, str]] = []
    asked = {seed: Asked(seed, tmp_path, what) for seed, what in does.items()}
    results = over_seeds(work, asked, 3, lambda *told: heard.append(told))
    assert [(r.seed, r.state) for r in results] == [(0, "done"), (1, "failed"), (2, "defect"), (3, "defect"), (4, "done")]
    assert results[1].error["what"] == "loss is not finite by step 10"
    assert results[1].error["mend"] == "lower the learning rate"
    assert "ZeroDivisionError: by accident" in results[2].error["what"]
    assert results[3].error["what"] == "its process was killed by signal 9"
    assert len({results[0].result["process"], results[4].result["process"], os.getpid()}) == 3
    assert {(seed, 0.5, "half") for seed in (0, 1, 2, 4)} <= set(heard)
    assert [state_of(tmp_path, seed) for seed in does] == ["done", "failed", "failed", "stopped", "done"]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_stopping_the_command_stops_every_seed_and_keeps_its_run(tmp_path, how):
    command = [sys.executable, "-m", "tests.support.seeds", str(tmp_path)]
    process = subprocess.Popen(command, env=PATHS, cwd=REPOSITORY, start_new_session=True)
    folders = [tmp_path / f"seed{k}" for k in (0, 1)]
    until(lambda: all((f / "status.json").is_file() and "beat" in RunFolder.open(f).status.stage for f in folders), process)
    if how == "Ctrl-C":
        # as a terminal does it: the whole group hears it
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    else:
        process.kill()
        process.wait(60)
    until(lambda: all(RunFolder.open(f).status.state == "stopped" for f in folders))
    assert all(RunFolder.open(f).status.done == 0.5 for f in folders)
    assert not (tmp_path / "seed2").exists()


def test_the_summary_is_the_t_interval_of_what_all_seeds_have():
    values = [0.2, 0.5, 0.9, 0.4]
    (row,) = summarise([{"loss": value, f"only-{value}": 1.0} for value in values])
    lower, upper = stats.t.interval(0.95, 3, loc=0.5, scale=stats.sem(values))
    assert row["metric"] == "loss"
    assert (row["mean"], row["lower"], row["upper"]) == pytest.approx((0.5, lower, upper))
    (alone,) = summarise([{"loss": 1.0}])
    assert alone["lower"] != alone["lower"], "one seed has no interval"
    assert summarise([]) == []


def test_train_over_seeds_goes_on_and_says_which_failed(asked, tmp_path, capsys):
    """A foreign run is in the way of seed 4; when it is gone, that seed goes on alone, and is what it would have been."""
    words = ["train", "bc", "--steps", "20", "--log-every", "10", "--checkpoint-every", "10", "--json", *asked]
    RunFolder.create(tmp_path / "runs" / "r-seed4", kind="train", config={"other": 1}, seed=4).set_status("stopped")
    RunFolder(tmp_path / "runs" / "r-seed4").write_table("x", pa.table({"x": [1]}))
    assert main([*words, "--seed", "3", "--seeds", "2", "--run", "r"]) == 2
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [(run["seed"], run["state"]) for run in told["runs"]] == [(3, "done"), (4, "failed")]
    assert told["error"]["what"] == "1 of 2 seeds failed: 4"
    assert "was started with other options" in told["runs"][1]["error"]["what"]
    assert "was started with other options" in err
    assert "Traceback" not in err
    assert Path(told["runs"][0]["run"]).name == "r-seed3"
    assert {row["metric"]: row["mean"] for row in told["summary"]} == told["runs"][0]["final"]

    assert main([*words, "--seed", "3", "--run", "alone"]) == 0
    assert json.loads(capsys.readouterr().out)["final"] == told["runs"][0]["final"]


@pytest.mark.parametrize(("option", "value"), [("seeds", 0), ("jobs", -1)])
def test_bad_numbers_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option}={value} must be at least"):
        RunOptions(**{option: value})
