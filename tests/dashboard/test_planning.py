"""The planner's formulas against the command line's, and the commands a page starts."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import tyro
from streamlit.testing.v1 import AppTest

from dashboards import children, launching, planning
from recrl.core.errors import ConfigError
from recrl.core.files import write_json
from recrl.core.runs import RunFolder
from recrl.verbs.ab import AbOptions
from recrl.verbs.power import pilot_deviation
from simulators.ab import sequential, statistics
from tests.dashboard.conftest import Toy
from tests.dashboard.make_run import make_run
from tests.dashboard.test_pages import open_page, text_of
from tests.support.children import until


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("effect", "deviation", "users"), [(0.5, 1.0, 8), (0.01, 0.49, 20_000), (-0.2, 1.0, 300), (1.2, 1.0, 40), (0.001, 1.0, 200_000)]
)
def test_power_is_that_of_the_command_line(effect: float, deviation: float, users: int, paired: bool) -> None:
    known = statistics.power(effect, deviation, users, same_users=paired)
    assert planning.power(effect, deviation, users, paired=paired) == pytest.approx(known, abs=1e-4)


@pytest.mark.parametrize("paired", [True, False])
def test_users_and_effects_are_those_of_the_command_line(paired: bool) -> None:
    for effect in (0.5, 0.05, 0.005):
        known = statistics.users_needed(effect, 1.0, 0.95, 0.8, same_users=paired)
        assert abs(planning.users_needed(effect, 1.0, paired=paired) - known) <= max(1, 1e-5 * known)
    for users in (3, 20, 130, 290, 2_000, 33_000, 200_000):
        known = statistics.minimum_detectable_effect(2.0, users, 0.95, 0.9, same_users=paired)
        assert planning.detectable_effect(2.0, users, 0.95, 0.9, paired=paired) == pytest.approx(known, rel=1e-4)
    assert planning.looking_costs(0.9, 0.7) == pytest.approx(sequential.looking_costs(0.9, 0.7))


@pytest.mark.parametrize("paired", [True, False])
def test_more_users_show_smaller_effects_without_a_jump(paired: bool) -> None:
    users = [10 * 1.05**k for k in range(250)]
    for target in (0.1, 0.5, 0.8, 0.99):
        found = [planning.detectable_effect(1.0, n, 0.95, target, paired=paired) for n in users]
        steps = [later / earlier for earlier, later in pairwise(found)]
        assert 0.9 < min(steps) <= max(steps) < 1.0


def test_an_effect_that_nobody_can_show_is_a_message() -> None:
    with pytest.raises(ConfigError, match="no number of users"):
        planning.users_needed(1e-12, 1.0)


def test_the_pilots_deviation_is_that_of_the_command_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "pilot")
    metrics = pl.read_parquet(run.artifact("ab_metrics.parquet"))
    row = metrics.filter((pl.col("arm") != pl.col("baseline")) & (pl.col("metric") == "day_1_retention")).row(0, named=True)
    known, paired = pilot_deviation(run.path, "day_1_retention", "")
    assert planning.pilot_deviation(row, row["users"], paired) == pytest.approx(known)
    assert math.isnan(planning.pilot_deviation(row, 0, False))


def test_the_page_finds_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "demo")
    app = open_page("plan", tmp_path / "runs", monkeypatch, "demo")
    app.selectbox(key="pilot").select("my own numbers").run()
    app.number_input(key="deviation").set_value(0.49).run()
    app.number_input(key="effect-my own numbers").set_value(0.01).run()
    assert not app.exception
    users = statistics.users_needed(0.01, 0.49)
    assert f"{users:,} users an arm" in text_of(app).replace("\\", "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a simulator and a run of two policies."""
    run = RunFolder.create(tmp_path / "runs" / "sim", kind="simulator", config={"data": "ml-100k", "session_rule": "gap"}, seed=0)
    write_json(run.path / "artifacts" / "simulator" / "world.json", {})
    run.set_status("done")
    for policy in ("bc-item", "td3_bc"):
        write_json(run.path / "artifacts" / "policies" / policy / "policy.json", {})
    return tmp_path / "runs"


def trial(**changes: object) -> launching.Trial:
    asked = {"simulator": "sim", "baseline": "popularity", "arms": ("sim/bc-item",), "users": 50, "days": 3, "seed": 4}
    return launching.Trial(**{**asked, "scenarios": ("weak", "strong"), "name": "mine", **changes})  # type: ignore[arg-type]


def test_a_trial_is_a_command_that_the_command_line_understands(root: Path) -> None:
    assert launching.simulators(root) == ["sim"]
    assert launching.policies(root) == ["popularity", "random", "sim/bc-item", "sim/td3_bc"]
    words = launching.command(root, trial())
    asked = tyro.cli(AbOptions, args=words[1:])
    assert asked.policies == ("popularity", str(root / "sim" / "artifacts" / "policies" / "bc-item"))
    assert (asked.simulator, asked.runs, asked.run, asked.seed) == (root / "sim", root, "mine", 4)
    assert (asked.compare.users, asked.compare.days, asked.compare.scenarios) == (50, 3, ("weak", "strong"))
    assert (asked.data.data, asked.data.session_rule) == ("ml-100k", "gap")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../up"},
        {"name": "--help"},
        {"name": ""},
        {"arms": ()},
        {"arms": ("popularity",)},
        {"arms": ("../x/y",)},
        {"arms": ("--debug",)},
        {"scenarios": ()},
        {"simulator": "../x"},
        {"simulator": "nobody"},
    ],
)
def test_a_trial_that_is_none_is_a_message(root: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        launching.command(root, trial(**changes))


@pytest.mark.parametrize("data", ["--stores=/", "../../etc", "/etc", "", {"a": 1}])
def test_a_simulators_own_words_are_no_options_and_no_paths(root: Path, data: object) -> None:
    config = {"kind": "simulator", "seed": 0, "data": data, "signal": "long_view"}
    write_json(root / "sim" / "config.json", config)
    with pytest.raises(ConfigError, match="does not name its log"):
        launching.command(root, trial())
    write_json(root / "sim" / "config.json", {**config, "data": "ml-100k", "signal": "--debug"})
    assert not any("signal" in word for word in launching.command(root, trial()))


def test_a_child_says_what_went_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    child = children.start(tmp_path / "absent", ["nothing"])
    ended(child)
    error = child.outcome()
    assert error is not None
    assert "unknown command 'nothing'" in error.what
    assert "simulate fit" in error.mend
    assert (children.of(tmp_path, "nothing"), children.of(tmp_path, "ab")) == ([child], [])
    assert children.Child(child.run, ("ab", "a b"), child.process, child.out, child.err).shown == "recrl ab 'a b'"


def test_a_child_is_stopped_and_only_two_are_at_work(tmp_path: Path) -> None:
    # a command that goes on until it is interrupted
    command = ["dashboard", f"--runs={tmp_path}", "--port=0"]
    names, at_work = [], []
    try:
        for _ in range(2):
            names.append(children.free_name(tmp_path, "run-"))
            at_work.append(children.start(tmp_path / names[-1], command))
            for asks in (False, True):
                # a second click on the button of a slow page
                with pytest.raises(ConfigError, match="a command is at work on"):
                    children.start(tmp_path / names[-1], command, asks=asks)
        assert names == ["run-1", "run-2"], "no folder is there yet, and yet the name is taken"
        assert children.of(tmp_path, "dashboard") == at_work[::-1]
        with pytest.raises(ConfigError, match="2 commands are at work"):
            children.start(tmp_path / "third", command)
        assert at_work[0].outcome() is None
    finally:
        for child in at_work:
            child.stop()
            child.stop()
    for child in at_work:
        ended(child)
        assert child.outcome() is None, "stopped, not failed"
    RunFolder.create(tmp_path / "there", kind="ab", config={}, seed=0)
    with pytest.raises(ConfigError, match="exists"):
        children.start(tmp_path / "there", command)


def test_the_form_starts_a_test_and_the_page_says_how_it_ended(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = children.start(toy.runs / "labels-1", ["prefer", "--help"], asks=True)
    app = open_page("plan", toy.runs, monkeypatch, "world")
    for key, value in {"arm-users": 20, "days": 2}.items():
        app.number_input(key=key).set_value(value)
    app.multiselect(key="arms").set_value(["cloned/bc-fusion_weights"])
    press(app, "Start")
    (child,) = children.of(toy.runs, "ab")
    assert child.run.name == "ab-test-1"
    ended(child)
    assert child.outcome() is None, child.said()
    held = pl.read_parquet(child.run / "artifacts" / "ab_design.parquet").row(0, named=True)
    assert (held["users"], held["days"], held["arms"]) == (20, 2, "popularity,bc-fusion_weights")
    ended(labels)
    shown = text_of(app.run()).replace("\\", "")
    assert "**ab-test-1**: choose it in the sidebar" in shown
    assert "labels-1" not in shown, "a labelling is no test"


def test_a_test_that_fails_says_how_to_mend_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECRL_STORES", str(toy.stores / "nowhere"))
    app = open_page("plan", toy.runs, monkeypatch, "world")
    press(app, "Start")
    ended(children.of(toy.runs, "ab")[0])
    assert "No dataset or store" in text_of(app.run())


def press(app: AppTest, label: str) -> None:
    """Click the button of a form."""
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception, [element.message for element in app.exception]


def ended(child: children.Child) -> None:
    """Wait until a child has ended."""
    until(lambda: not child.running)
