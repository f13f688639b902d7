"""What-ifs of the simulator page: a command that the command line understands, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from streamlit.testing.v1 import AppTest

from dashboards import children, queries, what_if
from recrl.core.errors import ConfigError
from recrl.core.files import write_json
from tests.dashboard.make_run import make_run
from tests.dashboard.test_pages import HOSTILE, text_of
from tests.dashboard.test_planning import ended

ASKED = what_if.WhatIf("demo", "random", 2.5, 1.5, 50, 6, "weekly", 0.45, 100, 7, 3, "what-if-1")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a run that says it holds a simulator."""
    root = (tmp_path / "runs").absolute()
    run = make_run(root / "demo")
    write_json(run.artifact("simulator/world.json"), {"retention": {"eta_s_estimate": 0.75}})
    monkeypatch.setenv("RECRL_RUNS", str(root))
    monkeypatch.setenv("RECRL_STORES", str(tmp_path / "stores"))
    return root


def test_a_what_if_is_a_command_that_the_command_line_understands(root: Path) -> None:
    from recrl.verbs.simulate import LogOptions

    words = what_if.command(root, ASKED)
    asked = tyro.cli(LogOptions, args=words[2:])
    assert words[:2] == ["simulate", "log"]
    assert (asked.policy, asked.simulator, asked.data.data, asked.name) == ("uniform", root / "demo", "ml-100k", "what-if-1")
    assert (asked.log.eta_s, asked.log.leave_odds) == (2.5, 1.5)
    assert (asked.log.pool, asked.log.slate, asked.log.users, asked.log.days) == (50, 6, 100, 7)
    assert (asked.log.drift.kind, asked.log.drift.amplitude) == ("weekly", 0.45)


@pytest.mark.parametrize("changes", [{"name": "../x"}, {"name": "mine"}, {"pool": 3}, {"simulator": "../x"}, {"policy": HOSTILE}])
def test_what_cannot_be_simulated_is_a_message(changes: dict[str, object], root: Path) -> None:
    with pytest.raises(ConfigError):
        what_if.command(root, replace(ASKED, **changes))  # type: ignore[arg-type]


def test_the_sliders_start_a_child_and_the_page_shows_how_it_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, asked = children.start, []

    def start(run: Path, command: list[str]) -> children.Child:
        asked.append(command)
        return begin(run, [*command[:2], "nobody", f"--stores={root}", "--data=absent"])

    monkeypatch.setattr(children, "start", start)
    app = AppTest.from_string("from dashboards.pages import simulator\nsimulator.page()", default_timeout=60)
    app.query_params["run"], app.query_params["view"] = "demo", "What if"
    app.run()
    assert not app.exception, [element.message for element in app.exception]
    assert "No what-if was simulated yet" in text_of(app)
    sliders = {slider.label: slider for slider in app.slider}
    assert sliders["Satisfaction's effect on return (eta_s)"].value == 0.75, "as fitted"
    sliders["Candidates a request"].set_value(60)
    sliders["Satisfaction's effect on return (eta_s)"].set_value(3.2)
    sliders["Leaving, times its fitted odds"].set_value(0.5)
    next(button for button in app.button if button.label == "Simulate").click().run()
    assert not app.exception
    assert {"--pool=60", "--eta-s=3.2", "--leave-odds=0.5"} <= set(asked[0])
    child = children.of(queries.stores_root(), "simulate")[0]
    ended(child)
    assert "No dataset or store" in text_of(app.run())


def test_an_address_sets_the_sliders_and_a_second_click_starts_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = children.start

    def start(run: Path, command: list[str]) -> children.Child:
        # goes on until it is interrupted, and reads as what was asked
        child = begin(run, ["dashboard", f"--runs={root}", "--port=0"])
        child.command = tuple(command)
        return child

    monkeypatch.setattr(children, "start", start)
    app = AppTest.from_string("from dashboards.pages import simulator\nsimulator.page()", default_timeout=60)
    chosen = {"eta-demo": "3.2", "slate": "4", "drift": "weekly: responses follow the week, and wander", "days": "7", "seed": "5"}
    for key, value in {"run": "demo", "view": "What if", "pool": HOSTILE, "users": "1e300", **chosen}.items():
        app.query_params[key] = value
    app.run()
    try:
        for _ in range(2):
            next(button for button in app.button if button.label == "Simulate").click().run()
            assert not app.exception
        (child,) = children.of(queries.stores_root(), "simulate")
        wanted = {"--eta-s=3.2", "--slate=4", "--drift.kind=weekly", "--days=7", "--seed=5", "--pool=100", "--users=200"}
        assert wanted <= set(child.command)
        assert (child.run.name, what_if.free_name()) == ("what-if-1", "what-if-2")
    finally:
        for child in children.of(queries.stores_root(), "simulate"):
            child.process.kill()


def test_progress_and_results_are_read_from_what_it_says(root: Path) -> None:
    child = children.start(queries.stores_root() / "what-if-9", ["nothing"])
    ended(child)
    child.err.write(b"prepare: 100%  x\nsimulate log:  40%  day 3 of 7\n")
    child.err.flush()
    assert what_if.share_done(child) == 0.4
    assert what_if.free_name() == "what-if-1"
    (queries.stores_root() / "what-if-1").mkdir(parents=True)
    (queries.stores_root() / "what-if-1" / "manifest.json").write_text("{}")
    assert (what_if.made(), what_if.free_name()) == (["what-if-1"], "what-if-2")
