"""`recrl diagnose` on what is known: nothing where actions move nothing, at its stated rate; something where they do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recrl.core.errors import ConfigError, DataError
from recrl.core.objective import Objective
from recrl.core.ragged import Offsets
from recrl.pipeline.diagnose import DiagnoseConfig, diagnose_world
from recrl.pipeline.effects import Units, action_effect, planning_effect, tilt
from simulators.leave import LeaveLaw
from simulators.retention import RetentionLaw
from simulators.toy import TOY_CONFIG, toy_response
from simulators.world import RetentionWorld


def units(seed: int, effect: float, users: int = 80, rows: int = 8) -> Units:
    """Users who differ in what they are shown and in what they do, so that both go together; only ``effect`` is the action's."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rows)
    level = rng.normal(size=users)[user]
    action = np.stack([level + rng.normal(size=user.size), rng.normal(size=user.size)], axis=1)
    state = np.stack([rng.normal(size=user.size), np.tile(np.arange(rows), users)], axis=1)
    outcome = 0.5 * level + 0.3 * state[:, 0] + effect * action[:, 1] + rng.normal(size=user.size)
    return Units(state, action, outcome, user, Offsets.from_lengths(np.full(users * rows // 4, 4)))


def test_false_alarms_come_at_their_rate():
    """30 data sets without an effect at 5 %: more than 5 alarms have a chance of .3 %, though actions and outcomes go together by user."""
    alarms = sum(action_effect(units(seed, 0.0, users=60), seed=seed).p_value < 0.05 for seed in range(30))
    assert alarms <= 5
    pooled = units(0, 0.0)
    assert np.corrcoef(pooled.action[:, 0], pooled.outcome)[0, 1] > 0.2


def test_a_planted_effect_is_found_at_its_size_and_gone_when_sessions_are_shuffled():
    """.4 a standard deviation of the second feature; the interval misses it once in 16,000 (twice its half width)."""
    planted = units(1, 0.4, users=150)
    found = action_effect(planted, seed=1)
    assert found.p_value < 1e-6
    assert abs(found.value - 0.4) < 2 * (found.upper - found.lower) / 2
    shuffled = planted.shuffled(3)
    assert action_effect(shuffled, seed=1).p_value > 1e-4
    # whole sessions move, each from one other session
    blocks = {block.tobytes() for block in planted.action.reshape(-1, 4, 2)}
    assert {block.tobytes() for block in shuffled.action.reshape(-1, 4, 2)} == blocks
    assert not np.array_equal(shuffled.action, planted.action)


def test_planning_pays_where_what_is_good_now_is_not_what_is_good_later():
    base = units(2, 0.0, users=150)
    rng = np.random.default_rng(9)
    later = 0.5 * base.action[:, 1] + rng.normal(size=base.user.size)
    now = 0.5 * base.action[:, 0] + rng.normal(size=base.user.size)
    paid = planning_effect(replace(base, outcome=later), now, later, seed=2)
    assert paid.p_value < 1e-6
    same = planning_effect(replace(base, outcome=later), later, later, seed=2)
    assert same.value == 0.0


def test_users_are_the_clusters():
    """Hand-computed: two rows each of three users; a repeated row is no new evidence."""
    score, user = np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]), np.array([0, 0, 1, 1, 2, 2])
    found = tilt(score, user)
    assert found.value == 2.0
    # sums 2, 4, 6 around 4: sqrt(3/2 * 8) / 6
    assert found.upper - found.value == pytest.approx(4.302652730 * 12**0.5 / 6)
    assert (found.rows, found.users) == (6, 3)


def test_too_little_is_said():
    with pytest.raises(DataError, match="19 users"):
        action_effect(units(0, 0.0, users=19))
    with pytest.raises(DataError, match="never differs"):
        action_effect(replace(units(0, 0.0), outcome=np.ones(640)))
    with pytest.raises(ConfigError, match="users=5"):
        DiagnoseConfig(users=5)


def build(scenario: str, satisfaction: float):
    """A self-made simulator; with scenario fitted and satisfaction 0 a bandit: nothing that is shown moves anything."""
    leave = LeaveLaw.synthetic(4.0, satisfaction=satisfaction, max_requests=30)

    def world(kind, objective: Objective) -> RetentionWorld:
        config = replace(TOY_CONFIG, action_kind=kind, scenario=scenario, slate_size=2, pool_size=0, exclude_recent=0, horizon_days=10)
        return RetentionWorld(replace(config, truth=False), toy_response(), leave, RetentionLaw.published(), objective=objective)

    return world


def test_a_bandit_world_gives_no():
    """At alpha .05 over five questions; the seed is fixed, so this holds or fails for good."""
    config = DiagnoseConfig(users=200, days=10, steps=30)
    found = diagnose_world(build("fitted", 0.0), config, signal="long_view", seed=1)
    assert found.answer == "no"
    assert "a bandit will do" in found.reasons[0]
    # no policy moves a return here, so under common random numbers two learners differ by nothing
    (learned,) = [row for row in found.effects if row["outcome"] == "returns the next day, simulated"]
    assert learned["value"] == 0.0


def test_a_world_in_which_satisfaction_brings_users_back_gives_yes(tmp_path):
    from recrl.core.runs import RunFolder

    found = diagnose_world(build("strong", 2.0), DiagnoseConfig(users=300, days=10, steps=0), signal="long_view", seed=1)
    assert found.answer == "yes"
    assert any(row["p_adjusted"] < 1e-4 and not row["shuffled"] for row in found.effects)
    assert {row["question"] for row in found.effects if row["p_value"] < 0.01} == {"actions", "planning"}
    assert all(row["p_adjusted"] > 0.01 for row in found.effects if row["shuffled"])
    run = RunFolder.create(tmp_path / "r", kind="diagnose", config={}, seed=0)
    found.write(run)
    assert pl.read_parquet(run.artifact("diagnose_verdict.parquet"))["answer"].to_list() == ["yes"]
    assert pl.read_parquet(run.artifact("diagnose_effects.parquet")).height == len(found.effects)


def test_a_log_from_the_shell(tmp_path, monkeypatch, capsys):
    import recrl_datasets as rd
    from recrl.cli import main
    from tests.cli.conftest import small_frame

    monkeypatch.chdir(tmp_path)
    rd.from_frame(small_frame(users=60), name="small", stores=tmp_path / "stores")
    words = ["diagnose", "--data", "small", "--vector-size", "8", "--users", "50"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["answer"] in ("yes", "no", "cannot tell")
    assert found["reasons"][-1].startswith("the log says nothing of how items were chosen")
    assert (tmp_path / "runs" / "diagnose-small" / "artifacts" / "diagnose_verdict.parquet").is_file()
    assert main(words) == 0
    assert "does reinforcement learning matter here?" in capsys.readouterr().out
    assert main([*words, "--signal", "watch_seconds", "--run", "other"]) == 2
    assert "the log holds no 'watch_seconds'" in capsys.readouterr().err
