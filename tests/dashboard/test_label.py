"""Labelling on a page: what the command asks is shown as it is asked, and every answer lies on disk."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import tyro
from streamlit.testing.v1 import AppTest

from dashboards import children, labelling, queries
from dashboards.pages import label
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from tests.dashboard.conftest import Toy
from tests.dashboard.test_pages import HOSTILE, text_of
from tests.support.children import until

SAID = """pair 2 of 11
  [1]  user 25
         7 requests  ▇▂█▆▃▃▇                                   click 0.60  long_view 0.52  back after 1.0 days
         2 requests  █▅                                        click 0.75  long_view 0.33  goes on
  [2]  user 51
        16 requests  ▆█▇▅▆▆▅▅▃▃▃█▆▇▆▇                          click 0.65  watch_seconds 12.58  goes on
better? """


def request(**changes: object) -> labelling.Request:
    return labelling.Request(
        **{"source": labelling.SIMULATED, "pairs": 8, "within": 0.5, "length": 12, "seed": 3, "name": "mine", "users": 30, **changes}  # type: ignore[arg-type]
    )


def test_a_question_reads_back() -> None:
    asked = labelling.question(f"1 or 2: that one is better\n\npair 1 of 11\n  [1]  user 9\nbetter? \n{SAID}")
    assert asked is not None
    assert (asked.number, asked.of, asked.users) == (2, 11, ("25", "51"))
    assert [session.requests for session in asked.left] == [7, 2]
    assert asked.left[1] == labelling.Session(2, "█▅", {"click": 0.75, "long_view": 0.33}, "goes on")
    assert asked.right[0].means == {"click": 0.65, "watch_seconds": 12.58}
    assert labelling.question("prepare: 100%  done\n") is None


def test_what_is_asked_is_a_command_that_the_command_line_understands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recrl.verbs.prefer import PreferOptions

    found = tyro.cli(PreferOptions, args=labelling.command(tmp_path, request())[1:])
    assert (found.simulated, found.label.pairs, found.label.within, found.seed, found.by) == (30, 8, 0.5, 3, "person")
    assert (found.label.windows.length, found.label.windows.stride, found.runs, found.run) == (12, 12, tmp_path, "mine")
    (tmp_path / "stores" / "log").mkdir(parents=True)
    (tmp_path / "stores" / "log" / "manifest.json").write_text("{}")
    monkeypatch.setenv("RECRL_STORES", str(tmp_path / "stores"))
    assert queries.stores() == ["log"]
    found = tyro.cli(PreferOptions, args=labelling.command(tmp_path, request(source="log"))[1:])
    assert (found.data.data, found.data.stores) == ("log", tmp_path / "stores")


@pytest.mark.parametrize("changes", [{"name": "../up"}, {"name": "--help"}, {"name": HOSTILE}, {"source": "nowhere"}, {"source": "../x"}])
def test_what_cannot_be_asked_is_a_message(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        labelling.command(tmp_path, request(**changes))


def test_a_person_labels_on_the_page_and_goes_on_later(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from recrl.verbs.prefer import PreferTrainOptions

    root, asked = toy.runs, request(source="small", length=6, users=200)
    monkeypatch.setattr(label, "_PATIENCE_SECONDS", 60.0)
    app = AppTest.from_string("from dashboards.pages import label\nlabel.page()", default_timeout=90)
    app.run()
    assert not app.exception
    child = children.start(root / "mine", labelling.command(root, asked), asks=True)
    try:
        until(lambda: labelling.waiting(child) is not None or not child.running)
        assert child.running, child.said()
        assert "pair 1 of 8" in app.run().get("progress")[0].proto.text
        assert len(app.table) == 2, "two timelines"
        for word, number in (("1", 2), ("2", 3), ("=", 4), ("u", 3), ("s", 4)):
            app.button(key=f"answer-{word}").click().run()
            assert not app.exception
            assert f"pair {number} of 8" in app.get("progress")[0].proto.text
        label._reply(child, 1, "1")
        assert labelling.waiting(child).number == 4, "an answer to an earlier question is none"  # type: ignore[union-attr]
        assert labelling.answers(RunFolder(child.run)) == {"left": 1, "right": 1, "equal": 0, "skipped": 1}
        next(button for button in app.button if button.label == "Stop here").click().run()
        until(lambda: not child.running)
        shown = text_of(app.run()).replace("\\", "")
        assert "1 left better, 1 right better, 0 equal, 1 skipped; 5 to go" in shown
        words = shlex.split(app.code[0].value)
        assert words[:3] == ["recrl", "prefer", "train"]
        found = tyro.cli(PreferTrainOptions, args=words[3:])
        assert (found.labels, found.data.data, found.data.stores, found.how.runs) == (child.run, "small", toy.stores, root)
        assert labelling.unfinished(root) == {"mine": asked}
    finally:
        child.process.kill()


def test_an_absent_root_and_a_broken_labelling_are_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECRL_RUNS", str(tmp_path / "absent"))
    app = AppTest.from_string("from dashboards.pages import label\nlabel.page()", default_timeout=60).run()
    assert not app.exception
    assert "Start labelling" in text_of(app)
    run = RunFolder.create(tmp_path / "absent" / "odd", kind="preferences", config={"label": HOSTILE}, seed=0)
    run.set_status("stopped")
    run.artifact("preferences.parquet").write_bytes(b"x")
    assert not app.run().exception
    assert labelling.unfinished(tmp_path / "absent") == {}
    assert labelling.answers(run) is None
