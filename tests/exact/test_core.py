"""The ground floor: streams, ragged arrays, configurations, atomic files, run folders."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recrl.core import behaviours, files
from recrl.core.config import from_dict, from_json, to_json
from recrl.core.errors import ConfigError, ContractError, StorageError
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.ragged import Offsets
from recrl.core.runs import RunFolder
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from tests.support.children import until

ids_strategy = st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=20)


@given(seed=st.integers(-(2**70), 2**70), ids=ids_strategy, step=st.integers(-5, 2**40), purpose=st.sampled_from(Purpose))
def test_tensor_streams_give_the_bits_of_numpy_streams(seed, ids, step, purpose):
    ours = Streams(seed).bits(ids, step, purpose, (2, 3))
    theirs = TensorStreams(seed).bits(torch.tensor(ids), step, purpose, (2, 3)).numpy().view(np.uint64)
    assert np.array_equal(ours, theirs)


@given(ids=st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True), step=st.integers(0, 1000))
def test_a_draw_depends_on_nobody_else(ids, step):
    together = Streams(3).uniform(ids, step, Purpose.RESPONSES, (4,))
    for k, one in enumerate(ids):
        assert np.array_equal(together[k], Streams(3).uniform([one], step, Purpose.RESPONSES, (4,))[0])


def test_a_longer_draw_begins_with_the_shorter_one():
    assert np.array_equal(Streams(1).bits([5], 2, Purpose.LEAVING, (3,)), Streams(1).bits([5], 2, Purpose.LEAVING, (8,))[:, :3])


@pytest.mark.parametrize("axis", ["id", "step", "index", "purpose", "seed"])
def test_draws_are_uniform_and_uncorrelated_along_every_axis(axis):
    """Kolmogorov-Smirnov and lag-one correlation; false-alarm rate 1e-6 a test."""
    n = 200_000
    draws = {
        "id": lambda: Streams(0).uniform(np.arange(n), 0, Purpose.RETURN),
        "step": lambda: Streams(0).uniform(np.zeros(n, dtype=int), np.arange(n), Purpose.RETURN),
        "index": lambda: Streams(0).uniform([0], 0, Purpose.RETURN, (n,))[0],
        "purpose": lambda: np.concatenate([Streams(s).uniform(np.arange(100), 0, p) for s in range(170) for p in Purpose]),
        "seed": lambda: np.array([Streams(s).uniform([0], 0, Purpose.RETURN)[0] for s in range(4000)]),
    }[axis]()
    assert stats.kstest(draws, "uniform").pvalue > 1e-6
    correlation = np.corrcoef(draws[:-1], draws[1:])[0, 1]
    assert abs(correlation) * np.sqrt(draws.size) < stats.norm.isf(0.5e-6)


def test_normal_and_gumbel_have_their_laws():
    """Kolmogorov-Smirnov; false-alarm rate 1e-6 each."""
    ids = torch.arange(100_000)
    assert stats.kstest(TensorStreams(1).normal(ids, 0, Purpose.EXPLORATION, dtype=torch.float64), "norm").pvalue > 1e-6
    assert stats.kstest(TensorStreams(1).gumbel(ids, 0, Purpose.EXPLORATION).double(), "gumbel_r").pvalue > 1e-6
    assert stats.kstest(Streams(1).normal(np.arange(100_000), 0, Purpose.EXPLORATION), "norm").pvalue > 1e-6


def test_integers_and_permutation():
    drawn = Streams(1).integers(3, np.arange(1000), 0, Purpose.BATCHES)
    assert set(drawn) == {0, 1, 2}
    order = Streams(1).permutation(100, 0, Purpose.BATCHES)
    assert sorted(order) == list(range(100))
    assert list(order) != list(range(100))


@given(lengths=st.lists(st.integers(0, 5), max_size=20))
def test_offsets_agree_with_a_plain_loop(lengths):
    offsets = Offsets.from_lengths(lengths)
    values = np.arange(offsets.total, dtype=float)
    assert offsets.lengths.tolist() == lengths
    assert offsets.sum(values).tolist() == [values[offsets[k]].sum() for k in range(offsets.count)]
    assert offsets.segment_ids().tolist() == [k for k, n in enumerate(lengths) for _ in range(n)]
    assert offsets.positions().tolist() == [i for n in lengths for i in range(n)]
    assert Offsets.from_sorted_ids(offsets.segment_ids(), offsets.count).values.tolist() == offsets.values.tolist()


@given(st.lists(st.lists(st.integers(0, 3), min_size=0, max_size=4), max_size=6))
def test_levels_compose(nested):
    outer = Offsets.from_lengths([len(inner) for inner in nested])
    inner = Offsets.from_lengths([n for group in nested for n in group])
    assert outer.through(inner).lengths.tolist() == [sum(group) for group in nested]


def test_from_starts():
    assert Offsets.from_starts([True, False, True]).values.tolist() == [0, 2, 3]
    assert Offsets.from_starts([]).total == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Offsets(np.array([1, 2])), "offsets must be one-dimensional, start at 0"),
        (lambda: Offsets(np.array([0, 3, 2])), "never decrease"),
        (lambda: Offsets.from_sorted_ids([1, 0], 2), "segment ids must be sorted and lie in 0..1"),
        (lambda: Offsets.from_lengths([2]).sum([1.0]), "expected 2 values, got shape (1,)"),
        (lambda: Offsets.from_lengths([2]).through(Offsets.from_lengths([1])), "outer offsets cover 2 segments, inner ones hold 1"),
    ],
)
def test_broken_offsets_are_refused(build, message):
    with pytest.raises(ContractError) as caught:
        build()
    assert message in str(caught.value)
    assert "mend:" in str(caught.value)


@given(st.integers(0, 127))
def test_behaviours_round_trip(byte):
    row = behaviours.unpack(np.array([byte], dtype=np.uint8))
    columns = {name: row[:, k] for k, name in enumerate(behaviours.BEHAVIOURS)}
    assert behaviours.pack(columns, 1).tolist() == [byte]


def test_config_round_trip_keeps_nested_values():
    objective = Objective(
        main=Signal("watch_seconds", discount_across=0.5),
        constraints=(Constraint(Signal("hate", weight=-1.0), "at_most", 0.001),),
        max_gap_days=7,
    )
    assert from_json(Objective, to_json(objective)) == objective


@given(st.lists(st.floats(1.0, 30.0), max_size=20), st.floats(0.0, 0.99), st.integers(1, 10))
def test_to_lose_a_user_later_is_never_worse_than_to_lose_them_now(gaps, discount, max_gap):
    objective = Objective(Signal("return", discount_within=1.0, discount_across=discount), max_gap_days=max_gap)
    gone = objective.churn_days(objective.main)
    stays = sum(discount**k * min(gap, max_gap) for k, gap in enumerate(gaps))
    assert stays + discount ** len(gaps) * gone <= gone * (1.0 + 1e-9)


def test_days_away_need_a_discount_across_sessions():
    with pytest.raises(ConfigError, match="have no sum without a discount"):
        Objective(Signal("return", discount_across=1.0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"horizon": 3}, "unknown key 'horizon'"),
        ({"max_gap_dayz": 3}, "did you mean 'max_gap_days'?"),
        ({"max_gap_days": "soon"}, "max_gap_days: Input should be a valid integer"),
        ({"max_gap_days": 0}, "max_gap_days is 0; it must be at least 1"),
        ({"main": {"nam": "click"}}, "unknown key 'nam'"),
        ({"main": {"name": "click", "discount_within": 1.5}}, "discount_within of signal 'click' is 1.5"),
        ({"constraints": [{"signal": {"name": "long_view"}, "direction": "at_least"}]}, "each signal may appear once"),
        ([], "expected an object with the fields of Objective"),
    ],
)
def test_bad_configurations_are_refused_by_name(data, message):
    with pytest.raises(ConfigError) as caught:
        from_dict(Objective, data)
    assert message in str(caught.value)


def test_broken_json_is_a_config_error():
    with pytest.raises(ConfigError, match="not valid JSON"):
        from_json(Objective, "{")


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"x": float("nan")})
    with pytest.raises(ArithmeticError), files.atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ArithmeticError
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("code", "mend"), [(errno.ENOSPC, "free some disk space"), (errno.EROFS, "writable disk"), (errno.EACCES, "may write to")]
)
def test_disk_errors_say_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, mend: str):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError) as caught:
        files.write_text(tmp_path / "a.txt", "text")
    assert mend in str(caught.value)
    assert str(tmp_path / "a.txt") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_reading_missing_and_broken_json(tmp_path: Path):
    with pytest.raises(StorageError, match=r"a\.json is missing"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StorageError, match="is not valid JSON"):
        files.read_json(tmp_path / "a.json")


def make_run(path: Path) -> RunFolder:
    return RunFolder.create(path, kind="train", config={"steps": 5}, seed=1, data_hash="abc")


def test_a_run_tells_its_story(tmp_path: Path):
    run = make_run(tmp_path / "r")
    assert run.status.effective_state == "running"
    with run.running():
        run.append_metrics("train", [{"step": 1, "name": "loss", "value": 0.5}, {"step": 2, "name": "loss", "value": 0.4}])
        run.append_metrics("train", [{"step": 3, "name": "loss", "value": 0.3}])
        run.write_table("t", pa.table({"a": [1]}))
    assert run.status.state == "done"
    assert RunFolder.open(run.path).config == {"kind": "train", "seed": 1, "steps": 5}
    environment = files.read_json(run.path / "environment.json")
    assert environment["data_hash"] == "abc"
    assert environment["versions"]["numpy"] == np.__version__
    run.truncate_metrics("train", 1)
    assert pq.read_table(run.path / "metrics" / "train").column("step").to_pylist() == [1]


def test_going_on_with_other_options_is_refused(tmp_path: Path):
    for _ in range(2):
        run = RunFolder.create(tmp_path / "r", kind="train", config={"steps": 5, "hidden": (3, 4)}, seed=1)
        run.append_metrics("train", [{"step": 1, "name": "loss", "value": 0.5}])
    with pytest.raises(ConfigError, match="was started with other options: steps"):
        RunFolder.create(tmp_path / "r", kind="train", config={"steps": 6, "hidden": (3, 4)}, seed=1)


def test_a_run_that_never_began_may_be_asked_again(tmp_path: Path):
    RunFolder.create(tmp_path / "r", kind="train", config={"steps": -1}, seed=1)
    run = RunFolder.create(tmp_path / "r", kind="train", config={"steps": 1}, seed=1)
    assert run.config["steps"] == 1


def test_going_on_with_other_data_is_refused(tmp_path: Path):
    run = make_run(tmp_path / "r")
    run.append_metrics("train", [{"step": 1, "name": "loss", "value": 0.5}])
    with pytest.raises(ConfigError, match=r"was made from other data \(hash abc, now abd\)"):
        RunFolder.create(tmp_path / "r", kind="train", config={"steps": 5}, seed=1, data_hash="abd")


def test_a_failed_and_an_interrupted_run_say_so(tmp_path: Path):
    run = make_run(tmp_path / "r")
    with pytest.raises(RuntimeError), run.running():
        raise RuntimeError("boom")
    assert (run.status.state, run.status.message) == ("failed", "boom")
    with pytest.raises(KeyboardInterrupt), run.running():
        raise KeyboardInterrupt
    assert run.status.state == "stopped"


def test_a_killed_run_reads_stopped(tmp_path: Path):
    start = f"RunFolder.create({str(tmp_path / 'r')!r}, kind='t', config={{}}, seed=0)"
    code = f"from recrl.core.runs import RunFolder; import time\n{start}; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        until((tmp_path / "r" / "status.json").exists, process)
        run = RunFolder.open(tmp_path / "r")
        assert run.status.effective_state == "running"
        process.kill()
        process.wait()
        assert run.status.effective_state == "stopped"
    finally:
        process.kill()
        process.wait()


def test_opening_what_is_no_run(tmp_path: Path):
    with pytest.raises(StorageError, match="no run in"):
        RunFolder.open(tmp_path)


def test_objective_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Objective().max_gap_days = 3  # type: ignore[misc]


def test_importing_core_does_not_load_torch():
    code = "import recrl.core.runs, recrl.core.contracts, recrl.core.config, recrl.core.streams, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_of_two_processes_that_start_one_run_at_once_one_is_refused(tmp_path: Path):
    code = (
        "import sys, time\nfrom recrl.core.runs import RunFolder\nfrom recrl.core.errors import ConfigError\n"
        "inner = RunFolder._settle_config\n"
        # wide open: whoever has looked around waits before it says that it is here
        "RunFolder._settle_config = lambda run, wanted: (time.sleep(1), inner(run, wanted))\n"
        "sys.stdin.readline()\n"
        f"try: RunFolder.create({str(tmp_path / 'r')!r}, kind='t', config={{}}, seed=0); print('in', flush=True)\n"
        "except ConfigError as error: print(error.what, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = sorted(process.stdout.readline().strip() for process in both)
    finally:
        for process in both:
            process.communicate("go\n", timeout=60)
    assert said[0] == "in"
    assert re.fullmatch(r"process \d+ is at work in run 'r'", said[1])


def test_a_state_that_the_block_sets_stays(tmp_path: Path):
    run = make_run(tmp_path / "r")
    with run.running():
        run.set_status("stopped", done=0.5, message="7 pairs left")
    assert (run.status.state, run.status.done, run.status.message) == ("stopped", 0.5, "7 pairs left")


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path):
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
