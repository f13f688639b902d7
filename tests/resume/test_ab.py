"""Experiments in parts: no number depends on how many processes share the users, nor on their being killed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recrl.core.errors import ConfigError, MissingDependencyError, RecrlError, StorageError
from recrl.pipeline.shards import EngineOptions, simulate_in_shards
from simulators.ab import Experiment, UserMetrics, parts
from tests.resume.crashing import KILLED, killed_at
from tests.support.arms import Constant, Deadly, toy_experiment

ALONE = EngineOptions(shards=1)


def assert_same(first: Mapping[str, UserMetrics], second: Mapping[str, UserMetrics], users: int | None = None) -> None:
    """Every bit of the first ``users`` users; all of them by default, with what they were shown."""
    assert list(first) == list(second)
    for arm, one in first.items():
        two = second[arm]
        np.testing.assert_array_equal(one.uid[:users], two.uid[:users])
        for kind in ("columns", "daily", "covariates"):
            ours, theirs = getattr(one, kind), getattr(two, kind)
            assert set(ours) == set(theirs)
            for name in ours:
                np.testing.assert_array_equal(ours[name][:users], theirs[name][:users], err_msg=f"{arm} {name}")
        if users is None:
            np.testing.assert_array_equal(one.item_exposures, two.item_exposures)


@pytest.fixture(scope="module")
def whole() -> dict[str, UserMetrics]:
    """5,000 users in one go, in memory."""
    return toy_experiment(5_000).simulate(0, 5_000)


@pytest.mark.parametrize("users", [1, 7])
def test_a_user_is_the_same_in_a_small_population(whole: dict[str, UserMetrics], users: int) -> None:
    small = toy_experiment(5_000).simulate(0, users)
    assert small["network"].users == users
    assert_same(small, whole, users)


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("users", [2, 7])
def test_few_users_in_shards(
    whole: dict[str, UserMetrics], tmp_path: Path, users: int, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pieces that so many shards would do, done in this process."""
    pieces = parts.pieces_left(tmp_path, users, shards)
    assert len(pieces) == min(shards, users)
    for piece in pieces:
        parts.write_part(tmp_path, piece, toy_experiment(users).simulate(*piece))
    assert_same(parts.read_parts(tmp_path, ["network", "constant"]), whole, users)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'recrl[ray]'")
def test_ray_does_what_one_process_does(whole: dict[str, UserMetrics], tmp_path: Path) -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        for shards in (1, 2, 4):
            found = simulate_in_shards(toy_experiment(5_000), tmp_path / f"{shards}", EngineOptions("ray", shards))
            assert_same(found, whole)
            few = simulate_in_shards(toy_experiment(7), tmp_path / f"few-{shards}", EngineOptions("ray", shards))
            assert_same(few, whole, 7)
    finally:
        ray.shutdown()


def test_two_processes_do_what_one_does(whole: dict[str, UserMetrics], tmp_path: Path) -> None:
    assert_same(simulate_in_shards(toy_experiment(5_000), tmp_path, EngineOptions(shards=2)), whole)


def test_four_processes_do_what_one_does_though_one_is_killed(whole: dict[str, UserMetrics], tmp_path: Path) -> None:
    """A worker dies as it does where memory runs out: the others finish, and the same command goes on with what is missing."""
    experiment, folder, seen = toy_experiment(5_000), tmp_path / "users", [0.0]
    deadly = Deadly(experiment.policies["constant"].action_spec, 0.5, tmp_path / "switch")
    deadly.switch.touch()
    mortal = replace(experiment, policies={**experiment.policies, "constant": deadly})
    with pytest.raises(RecrlError, match="killed by signal 9") as caught:
        simulate_in_shards(mortal, folder, EngineOptions(shards=4), lambda done, text: seen.append(done))
    assert "--shards" in caught.value.mend
    assert len(parts.pieces_there(folder)) == 3
    assert seen == sorted(seen)
    assert 0.75 <= seen[-1] < 1.0
    assert_same(simulate_in_shards(experiment, folder, ALONE, lambda done, text: seen.append(done)), whole)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("change", [2, 4, 12])
def test_a_killed_run_goes_on(tmp_path: Path, change: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the ``change``-th change of the folder: parts begun and parts done."""
    monkeypatch.setattr(parts, "PIECE", 10)
    experiment, folder = toy_experiment(24, paired=False, pre_days=1), tmp_path / "users"
    folder.mkdir()
    assert killed_at(lambda path: simulate_in_shards(experiment, path, ALONE), folder, change) == KILLED
    before = parts.pieces_there(folder)
    assert len(before) < 3
    assert_same(simulate_in_shards(experiment, folder, ALONE), experiment.simulate(0, 24))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_is_there_is_not_simulated_again(tmp_path: Path) -> None:
    experiment = toy_experiment(30)
    simulate_in_shards(experiment, tmp_path, ALONE)

    class Refusing(Constant):
        def act(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
            raise AssertionError("asked again")

    refusing = Refusing(experiment.policies["constant"].action_spec, 0.0)
    idle: Experiment = replace(experiment, policies=dict.fromkeys(experiment.policies, refusing))
    assert_same(simulate_in_shards(idle, tmp_path, ALONE), experiment.simulate(0, 30))
    assert parts.pieces_left(tmp_path, 50, 4) == [(30, 35), (35, 40), (40, 45), (45, 50)]


def test_pieces_are_alike_and_not_too_large() -> None:
    nowhere = Path("nowhere")
    assert parts.pieces_left(nowhere, 100_000, 2) == [(12_500 * k, 12_500 * (k + 1)) for k in range(8)]
    million = parts.pieces_left(nowhere, 1_000_000, 2)
    sizes = {high - low for low, high in million}
    assert len(million) == 62
    assert max(sizes) <= parts.PIECE
    assert max(sizes) - min(sizes) <= 1


def test_bad_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_in_shards(toy_experiment(10), tmp_path, ALONE)
    next(tmp_path.glob("users-*-0.parquet")).write_bytes(b"half")
    with pytest.raises(StorageError, match="cannot be read"):
        simulate_in_shards(toy_experiment(10), tmp_path, ALONE)
    with pytest.raises(ConfigError, match="unknown engine 'magic'"):
        EngineOptions("magic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="shards=-1"):
        EngineOptions(shards=-1)
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(MissingDependencyError, match="Ray is not installed"):
        EngineOptions("ray")
