"""`recrl runs`: killed, broken and foreign folders are told apart, and nothing is lost that may still be wanted."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from recrl.cli import main
from recrl.core import runs as core_runs
from recrl.core.errors import ConfigError
from recrl.core.files import read_json, write_json
from recrl.core.runs import RunFolder
from recrl.pipeline import runs as folder

COMMAND = ["recrl", "train", "bc", "--run", "a b"]


def make(root: Path, name: str, state: str = "done", *, kind: str = "train", data: str = "small", checkpoints: int = 3) -> RunFolder:
    run = RunFolder.create(root / name, kind=kind, config={"data": data, "learner": {"steps": 20}}, seed=5, command=COMMAND)
    for step in range(1, checkpoints + 1):
        file = run.checkpoints / "train-bc" / f"step-{step:09d}" / "state.json"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * 1000)
        run.append_metrics("train-bc", [{"step": step, "name": "loss", "value": 1.0 / step}])
    if checkpoints:
        run.write_table("t", pa.table({"x": [1]}))
        write_json(run.path / "artifacts" / "policies" / "bc" / "policy.json", {"kind": "items"})
    run.set_status(state, stage="train", done=0.25 if state != "done" else 1.0)
    return run


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def killed(root: Path, name: str, **arguments: int) -> RunFolder:
    run = make(root, name, "running", **arguments)
    write_json(run.path / "status.json", {**read_json(run.path / "status.json"), "pid": dead_process()})
    return run


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def call(capsys, *words: str, status: int = 0) -> dict:
    assert main(["runs", *words, "--json"]) == status
    (line,) = capsys.readouterr().out.strip().splitlines()
    return json.loads(line)


def test_list_tells_states_apart_and_filters(root, capsys):
    for name, state in (("old", "done"), ("mine", "running"), ("gone-wrong", "failed")):
        make(root, name, state, kind="ab" if name == "old" else "train")
    killed(root, "killed")
    make(root, "broken").path.joinpath("status.json").write_text("{")
    (root / "photos").mkdir()
    found = {run["name"]: run for run in call(capsys, "list")["runs"]}
    states = {name: run["state"] for name, run in found.items()}
    assert states == {"old": "done", "mine": "running", "gone-wrong": "failed", "killed": "stopped", "broken": "broken"}
    assert found["killed"]["done"] == 0.25
    assert (found["old"]["data"], found["old"]["seed"], found["old"]["kind"]) == ("small", 5, "ab")
    assert found["old"]["bytes"] == sum(f.stat().st_size for f in (root / "old").rglob("*") if f.is_file())
    assert "status.json" in found["broken"]["problem"]

    def names(*words: str) -> list[str]:
        return [run["name"] for run in call(capsys, "list", *words)["runs"]]

    assert names("--state", "stopped") == ["killed"]
    assert names("--kind", "ab") == ["old"]
    assert names("--data", "other") == []
    assert names("--name", "l", "--sort", "name") == ["killed", "old"]
    (root / "mine" / "artifacts" / "large").write_bytes(b"x" * 50_000)
    assert names("--sort", "size")[0] == "mine"
    assert main(["runs", "list"]) == 0
    assert "killed" in capsys.readouterr().out


def test_a_number_that_another_process_got_is_not_the_run(root):
    run = make(root, "a", "running")
    assert run.status.effective_state == "running"
    write_json(run.path / "status.json", {**read_json(run.path / "status.json"), "updated": 1.0})
    assert run.status.effective_state == "stopped", "this process was born after that heartbeat"


def test_no_second_process_enters_a_run_that_is_at_work(root):
    make(root, "a", "running")
    code = f"from recrl.core.runs import RunFolder; RunFolder.create({str(root / 'a')!r}, kind='train', config={{}}, seed=5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert f"process {os.getpid()} is at work in run 'a'" in done.stderr


def test_show_says_what_a_run_holds_and_how_to_go_on(root, capsys):
    killed(root, "a b")
    shown = call(capsys, "show", "a b")
    assert (shown["state"], shown["policies"], shown["go_on"]) == ("stopped", ["bc"], "recrl train bc --run 'a b'")
    assert shown["config"]["learner"] == {"steps": 20}
    (stream,) = shown["streams"]
    assert (stream["step"], stream["checkpoint"], stream["curves"]) == (3, 3, {"loss": pytest.approx(1 / 3)})
    assert shown["artifacts"].keys() == {"policies", "t.parquet"}
    assert main(["runs", "show", f"{root.name}/a b/"]) == 0
    text = capsys.readouterr().out
    assert "learner.steps" in text
    assert "█▃▁" in text


def test_show_reads_what_is_left_of_a_broken_run(root, capsys):
    run = make(root, "a")
    (run.path / "config.json").write_bytes(b"\xff{")
    sorted((run.path / "metrics" / "train-bc").iterdir())[0].write_bytes(b"half")
    shown = call(capsys, "show", "a")
    assert (shown["state"], shown["config"], shown["streams"][0]["step"]) == ("broken", {}, 3)
    assert "config.json" in shown["problem"]


def test_rm_removes_all_or_nothing(root, capsys):
    make(root, "a"), make(root, "b"), make(root, "mine", "running")
    error = call(capsys, "rm", "a", "mine", "--yes", status=2)["error"]
    assert f"is running (process {os.getpid()})" in error["what"]
    assert (root / "a" / "config.json").is_file()
    assert "--yes" in call(capsys, "rm", "a", status=2)["error"]["mend"]
    size = folder.size_of(root / "a") + folder.size_of(root / "b")
    assert call(capsys, "rm", "a", "runs/b", "a", "--yes") == {"removed": ["a", "b"], "bytes": size}
    assert [path.name for path in root.iterdir()] == ["mine"]


def test_a_run_that_was_started_again_meanwhile_is_left_alone(root, capsys, monkeypatch):
    for name in ("a", "b"):
        make(root, name, checkpoints=1)
        (root / name / "artifacts" / ".half.tmp").write_bytes(b"half")
    look = folder.find_waste

    def look_then_start(*asked, **options):
        found = look(*asked, **options)
        RunFolder.open(root / "a").set_status("running")
        return found

    monkeypatch.setattr(folder, "find_waste", look_then_start)
    assert [waste["path"] for waste in call(capsys, "gc")["waste"]] == ["runs/b/artifacts/.half.tmp"]
    assert (root / "a" / "artifacts" / ".half.tmp").exists()
    with pytest.raises(ConfigError, match="run 'a' runs again: nothing of it was removed"):
        folder.discard(root, root / "a")
    assert (root / "a" / "config.json").is_file()


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_rm_asks_on_a_terminal(root, capsys, monkeypatch, answer):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    make(root, "a")
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    assert main(["runs", "rm", "a"]) == 0
    assert (root / "a").exists() == (answer != "y")
    assert "for good? [y/N]" in capsys.readouterr().out


def test_rm_touches_nothing_but_runs_of_the_root(root, tmp_path, capsys):
    make(root, "a"), make(tmp_path / "elsewhere", "b")
    (root / "photos").mkdir()
    (root / "photos" / "cat.jpg").write_bytes(b"x")
    (root / "link").symlink_to(tmp_path / "elsewhere" / "b")
    for name in (
        "..",
        "../elsewhere/b",
        str(tmp_path / "elsewhere" / "b"),
        "photos",
        "link",
        "",
        ".",
        "a/checkpoints",
        "nowhere",
        str(root),
    ):
        assert call(capsys, "rm", name, "--yes", status=2)["error"]["what"], name
    assert call(capsys, "rm", "--yes", status=2)["error"]["what"] == "no run is named"
    assert {path.name for path in root.iterdir()} == {"a", "photos", "link"}
    assert (tmp_path / "elsewhere" / "b" / "config.json").is_file()


def test_a_removal_that_is_cut_short_leaves_no_half_run(root, capsys, monkeypatch):
    make(root, "a")
    with monkeypatch.context() as patched:
        patched.setattr(folder.shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
        assert "Read-only" in call(capsys, "rm", "a", "--yes", status=2)["error"]["what"]
    assert call(capsys, "list")["runs"] == []
    assert [waste["why"] for waste in call(capsys, "gc")["waste"]] == ["a removal that was interrupted"]
    assert list(root.iterdir()) == []


def gc_case(root: Path, tmp_path: Path) -> None:
    done = make(root, "done")
    (done.path / "artifacts" / ".t.parquet.x1.tmp").write_bytes(b"x" * 10)
    unfinished = done.checkpoints / "train-bc" / ".step-000000004.77.tmp"
    unfinished.mkdir()
    (unfinished / "state.json").write_bytes(b"x" * 20)
    mine = make(root, "mine", "running")
    (mine.path / ".config.json.x.tmp").write_bytes(b"")
    killed(root, "killed")
    killed(root, "killed-early", checkpoints=0)
    failed = make(root, "failed-early", "failed", checkpoints=0)
    (failed.path / "metrics" / "s").mkdir(parents=True)
    (failed.path / "metrics" / "s" / ".part-000000.parquet.1.tmp").write_bytes(b"x")
    make(root, "broken").path.joinpath("status.json").write_text("{")
    # links lead nowhere: what lies behind them is not the run's
    elsewhere = tmp_path / "elsewhere"
    for step in (1, 2):
        (elsewhere / "train-bc" / f"step-{step:09d}").mkdir(parents=True)
    linked = make(root, "linked", checkpoints=0)
    linked.write_table("t", pa.table({"x": [1]}))
    linked.checkpoints.symlink_to(elsewhere)


def test_gc_keeps_what_may_still_be_wanted(root, tmp_path, capsys):
    gc_case(root, tmp_path)
    before = sorted(root.rglob("*"))
    told = call(capsys, "gc", "--dry-run")
    assert sorted(root.rglob("*")) == before, "a dry run touches nothing"
    assert {str(Path(waste["path"]).relative_to("runs")): waste["why"] for waste in told["waste"]} == {
        "done/artifacts/.t.parquet.x1.tmp": "never finished",
        "done/checkpoints/train-bc/.step-000000004.77.tmp": "never finished",
        "done/checkpoints/train-bc/step-000000001": "a checkpoint of a finished run",
        "done/checkpoints/train-bc/step-000000002": "a checkpoint of a finished run",
        "failed-early": "a run without any result",
        "killed-early": "a run without any result",
    }
    size = folder.size_of(root)
    assert call(capsys, "gc") == {**told, "dry_run": False}
    assert folder.size_of(root) == size - told["bytes"]
    assert call(capsys, "gc")["waste"] == []
    assert [p.name for p in (root / "killed" / "checkpoints" / "train-bc").iterdir()] != []
    everything = call(capsys, "gc", "--checkpoints")["waste"]
    assert [waste["path"] for waste in everything] == ["runs/done/checkpoints/train-bc/step-000000003"]
    assert len(list((tmp_path / "elsewhere" / "train-bc").iterdir())) == 2
    assert (root / "mine" / ".config.json.x.tmp").exists()


def test_no_folder_of_runs_is_an_empty_one(root, capsys):
    assert call(capsys, "list") == {"runs": []}
    assert call(capsys, "gc")["waste"] == []


def test_a_full_disk_leaves_the_run_as_it_was(root, monkeypatch):
    run = make(root, "a", "running")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(core_runs.pq, "write_table", full)
    with pytest.raises(core_runs.StorageError, match="free some disk space"), run.running():
        run.append_metrics("train-bc", [{"step": 4, "name": "loss", "value": 0.1}])
    assert (run.status.state, run.status.done) == ("failed", 0.25)
    assert folder.final_metrics(run, "train-bc") == {"loss": pytest.approx(1 / 3)}
    assert not list(run.path.rglob("*.tmp"))


def test_sparkline_and_sizes():
    from recrl.console import human_bytes, sparkline

    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([0.0, float("nan"), 7.0]) == "▁█"
    assert len(sparkline(list(range(1000)), 30)) == 30
    assert [human_bytes(n) for n in (0, 999, 1000, 1_550_000, 123_400_000_000)] == ["0 B", "999 B", "1.0 kB", "1.6 MB", "123 GB"]


def test_another_configuration_names_the_option(root):
    make(root, "a")
    with pytest.raises(ConfigError, match="other options: data"):
        make(root, "a", data="other")
