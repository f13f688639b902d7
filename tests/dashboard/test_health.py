"""What the home page says of the health of runs and disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dashboards import health
from dashboards.queries import RunSummary
from recrl.core.runs import RunFolder
from tests.dashboard.test_pages import LINE, open_page, text_of


def test_a_silent_run_a_failure_and_a_full_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    runs = [
        RunSummary("at-work", state="running", updated=now - 60),
        RunSummary("silent", state="running", updated=now - 1500),
        RunSummary("killed", state="stopped", updated=now - 1500),
        RunSummary("done", state="done", updated=now - 1500),
    ]
    monkeypatch.setattr(health, "free_bytes", lambda root: 41_200_000_000)
    assert health.problems(runs, tmp_path) == ["silent is at work but has told nothing for 25 min 0 s: it may hang."]
    assert health.summary(runs, tmp_path) == "4 runs: 2 running, 1 stopped, 1 done; 41.2\u00a0GB free."
    ill = [RunSummary(f"run-{k}", state="failed" if k else "broken") for k in range(5)]
    assert health.problems(ill, tmp_path)[0].startswith("5 of the runs failed or cannot be read: run-0, run-1, run-2 and 2 more.")
    monkeypatch.setattr(health, "free_bytes", lambda root: 800_000_000)
    assert health.problems(runs[:1], tmp_path) == ["Only 0.8\u00a0GB are free where runs are written; a run that cannot write fails."]


def test_the_room_is_that_of_the_disk(tmp_path: Path) -> None:
    assert (health.free_bytes(tmp_path) or 0) > 0
    assert health.free_bytes(tmp_path / "absent") is None


def test_home_tells_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SILENT_SECONDS", 0.0)
    RunFolder.create(tmp_path / "runs" / "silent", kind="train", config={}, seed=0)
    RunFolder.create(tmp_path / "runs" / LINE, kind="train", config={}, seed=0).set_status("failed")
    shown = text_of(open_page("home", tmp_path / "runs", monkeypatch, "silent"))
    assert "silent is at work but has told nothing for" in shown
    assert "2 runs\\: 1 failed\\, 1 running\\; " in shown
    assert "1 of the runs failed or cannot be read" in shown
    assert "<img" not in shown.replace("\\<", "")
