"""The user's mistakes: exit 2, what, where and the mend on stderr, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recrl.cli import main
from tests.support.children import until

MISTAKES = [
    (["data", "prepare", "movielens"], ["there is no dataset 'movielens'", "mend:  there are: ml-100k, ml-1m, "]),
    (["data", "prepare", "kuairand-pure"], ["needs the folder it was downloaded to", "--root DIR"]),
    (["data", "describe", "nowhere"], ["no dataset or store 'nowhere'", "mend:"]),
    (["data", "prepare", "ml-100k", "--frob", "1"], ["Unrecognized options: --frob"]),
    (["data"], ["unknown command 'data'"]),
    (["fly"], ["unknown command 'fly'"]),
    (["train", "ppo"], ["unknown algorithm 'ppo'", "choose one of bc, ddpg, td3, td3_bc"]),
    (["train", "td3_bc", "--steps", "0"], ["steps=0 must be at least 1"]),
    (["train", "bc", "--device", "cuda:7"], ["no cuda device is to be had here", "choose cpu or auto"]),
    (["train", "bc", "--device", "tpu"], ["unknown device 'tpu'"]),
    (["train", "td3_bc", "--steps", "many"], ["many"]),
    (["train", "td3_bc", "--action", "item"], ["td3_bc learns vector actions, not 'item'", "mend:  use embedding"]),
    (["train", "bc", "--signal", "hate"], ["the log holds no 'hate'", "choose a signal the log holds: click, long_view, like"]),
    (["train", "bc", "--signal", "joy"], ["unknown signal 'joy'"]),
    (["train", "bc", "--vector-size", "400"], ["do not support vectors of length 400", "choose at most 39"]),
    (["ope", "nowhere"], ["no policy 'nowhere'", "popularity, a saved policy, or a run that holds policies"]),
    (["ab", "popularity"], ["compares at least two policies, got popularity"]),
    (["ab", "popularity", "random", "--simulator", "nowhere"], ["no fitted simulator in nowhere", "recrl simulate fit --data small"]),
    (["ab", "popularity", "random", "--pool", "3"], ["a pool of 3 cannot fill a slate of 6"]),
    (["simulate", "report", "nowhere"], ["no run in nowhere"]),
    (["simulate", "fit", "--members", "1"], ["members is 1", "--members"]),
]


@pytest.fixture(autouse=True)
def _no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("words", "messages"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_mistakes(words, messages, capsys, asked):
    needs_log = words[0] in ("train", "ope", "ab")
    options = asked if "--vector-size" not in words else asked[:4]
    assert main([*words, *(options if needs_log else [])]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    said = " ".join((out + err).replace("│", " ").split())
    for message in messages:
        assert " ".join(message.split()) in said
    assert not [p for p in Path().rglob("*") if p.suffix == ".tmp"]


def test_a_mistake_with_json_is_an_object_too(capsys):
    assert main(["data", "prepare", "nope", "--json"]) == 2
    error = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["error"]
    assert error["what"] == "there is no dataset 'nope'"
    assert error["mend"]


@pytest.mark.parametrize("words", [["fly"], ["train", "--nope"], ["ab", "popularity"]])
def test_every_failure_is_one_object(words, capsys, asked):
    assert main([*words, *(asked if words[0] == "ab" else []), "--json"]) == 2
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["error"]["what"]


def test_debug_shows_the_traceback(capsys):
    assert main(["data", "prepare", "nope", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_no_verb_prints_the_verbs(capsys):
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_another_configuration_does_not_overwrite_a_run(capsys, asked):
    command = ["train", "bc", *asked, "--steps", "10", "--log-every", "10", "--checkpoint-every", "10", "--run", "r"]
    assert main(command) == 0
    assert main([*command, "--seed", "7"]) == 2
    assert "was started with other options: seed" in capsys.readouterr().err


def test_broken_store_is_named(capsys, asked, stores, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(stores / "small", broken)
    (broken / "log.parquet").write_bytes(b"half")
    assert main(["train", "bc", "--data", str(broken), "--steps", "10"]) == 2
    assert "log.parquet" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_there_and_the_same_command_goes_on(asked, stores, tmp_path):
    words = ["train", "bc", *asked, "--steps", "100000", "--log-every", "10", "--checkpoint-every", "10", "--run", "long"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / p) for p in (".", "datasets"))}
    process = subprocess.Popen([sys.executable, "-m", "recrl.cli", *words], env=environment, stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "runs" / "long" / "checkpoints"
    until(lambda: list(checkpoints.glob("*/step-*")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "everything so far is kept" in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "runs" / "long" / "status.json").read_text())["state"] == "stopped"
    assert list(checkpoints.glob("*/step-*"))
