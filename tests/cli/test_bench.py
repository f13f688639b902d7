"""`recrl bench`: scripts of the checkout, with their own options, results and exit status."""

from __future__ import annotations

import json
import os

import pytest

from recrl.cli import main
from recrl.verbs import bench

SCRIPT = '''"""How long it takes.

More.
"""
import json, sys
print("working")
print(json.dumps({"benchmark": "fast", "arguments": sys.argv[1:]}))
sys.exit(3 if "--fail" in sys.argv else 0)
'''


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "fast_one.py").write_text(SCRIPT)
    (folder / "_helper.py").write_text("")
    monkeypatch.setattr(bench, "BENCHMARKS", folder)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.3, 0.3, 0.3))
    return folder


def test_the_list_says_what_each_measures(scripts, capsys):
    assert main(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"benchmarks": [{"name": "fast_one", "about": "How long it takes."}]}


def test_every_benchmark_of_this_checkout_is_listed(capsys):
    assert main(["bench", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["benchmarks"]
    assert {"ope_coverage", "recbole_parity"} <= {row["name"] for row in listed}
    assert all(row["about"] for row in listed)


@pytest.mark.parametrize("name", ["fast_one", "fast-one", "fast_one.py"])
def test_options_behind_the_dashes_are_the_scripts(scripts, capfd, name):
    assert main(["bench", name, "--json", "--", "--steps", "3", "--debug"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"benchmark": "fast", "arguments": ["--steps", "3", "--debug", "--json"]}
    assert "working" in err
    assert "load average" not in err


def test_its_exit_status_is_ours_and_a_busy_machine_is_named(scripts, capfd, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 1.0, 1.0))
    assert main(["bench", "fast_one", "--", "--fail", "--json"]) == 3
    out, err = capfd.readouterr()
    assert "working" in out
    assert '"--fail", "--json"' in out
    assert "load average is 2.5" in err


def test_a_script_that_prints_no_object(scripts, capfd):
    (scripts / "plain.py").write_text("'''Plain.'''\nprint('3 s')")
    assert main(["bench", "plain", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"output": "3 s"}


@pytest.mark.parametrize("name", ["nope", "../tests/conftest", "_helper", "/etc/passwd"])
def test_only_benchmarks_are_run(scripts, capsys, name):
    assert main(["bench", name]) == 2
    assert "choose one of fast_one" in capsys.readouterr().err


def test_without_a_checkout_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "BENCHMARKS", tmp_path / "benchmarks")
    assert main(["bench"]) == 2
    assert "part of the checkout" in capsys.readouterr().err
