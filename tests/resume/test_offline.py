"""Training that was stopped anywhere ends where uninterrupted training ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from recrl.algorithms import REGISTRY
from recrl.core.contracts import Update
from recrl.core.errors import CheckpointError, ConfigError, RecrlError
from recrl.core.runs import RunFolder
from recrl.replay.samplers import UniformSampler
from recrl.training import checkpoints
from recrl.training.offline import OfflineConfig, train_offline
from tests.support import small
from tests.support.children import until

CONFIG = OfflineConfig(steps=60, batch_size=16, log_every=10, checkpoint_every=20)


def learner_of(name: str, kind: str):
    return REGISTRY[name](REGISTRY[name].config_type(), small.task(kind), 0)


def train(folder: Path, name: str, kind: str, config: OfflineConfig = CONFIG, learner=None, **arguments) -> RunFolder:
    run = RunFolder.create(folder, kind="train", config={"algorithm": name}, seed=0)
    buffer = small.buffer(kind)
    sampler = UniformSampler(buffer, torch.arange(len(buffer)), seed=0)
    train_offline(learner or learner_of(name, kind), sampler, config, run, stream="train", **arguments)
    return run


def outcome(run: RunFolder):
    """Final tensors and all metric rows."""
    newest = sorted((run.checkpoints / "train").glob("step-*"))[-1]
    metrics = pq.read_table(run.path / "metrics" / "train").to_pylist()
    return load_file(newest / "tensors.safetensors"), sorted((r["step"], r["name"], r["value"]) for r in metrics)


def assert_same(a, b):
    assert a[1] == b[1]
    assert a[0].keys() == b[0].keys()
    assert all(torch.equal(a[0][k], b[0][k]) for k in a[0])


class StopAtError(Exception):
    pass


def stop_at(step: int):
    def progress(done: float, text: str) -> None:
        if round(done * CONFIG.steps) >= step:
            raise StopAtError

    return progress


@pytest.mark.parametrize(("name", "kind"), [("bc", "item"), ("td3_bc", "embedding"), ("sac", "embedding")])
def test_stopped_training_goes_on_exactly(tmp_path, name, kind):
    whole = train(tmp_path / "whole", name, kind)
    with pytest.raises(StopAtError):
        train(tmp_path / "cut", name, kind, progress=stop_at(30))
    assert_same(outcome(train(tmp_path / "cut", name, kind)), outcome(whole))


def test_a_killed_process_goes_on_exactly(tmp_path):
    """kill -9 in the middle of training, then the same command again."""
    code = (
        "import sys, time; sys.path[:0] = ['.', 'datasets']\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; from tests.resume.test_offline import train\n"
        f"train(Path({str(tmp_path / 'cut')!r}), 'td3_bc', 'embedding', progress=lambda *_: time.sleep(0.3))"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    folder = tmp_path / "cut" / "checkpoints" / "train" / "step-000000020"
    until(folder.exists, process)
    process.kill()
    assert process.wait() == -9
    assert_same(outcome(train(tmp_path / "cut", "td3_bc", "embedding")), outcome(train(tmp_path / "whole", "td3_bc", "embedding")))


def test_a_finished_run_is_left_alone(tmp_path):
    run = train(tmp_path / "r", "bc", "item")
    before = outcome(run)
    assert_same(outcome(train(tmp_path / "r", "bc", "item")), before)


def test_only_damaged_checkpoints_is_an_error_with_its_mend(tmp_path):
    run = train(tmp_path / "r", "bc", "item")
    for path in (run.checkpoints / "train").glob("step-*"):
        (path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        train(tmp_path / "r", "bc", "item")


def test_checkpoints_keep_nested_state(tmp_path):
    state = {"a": torch.arange(3), "n": None, "list": [1, 2.5, "x"], "pair": (torch.ones(()), True), 7: {"deep": torch.zeros(2, 2)}}
    checkpoints.save_checkpoint(tmp_path, 5, state)
    step, loaded = checkpoints.load_latest(tmp_path)
    assert step == 5
    assert loaded["list"] == [1, 2.5, "x"]
    assert loaded["pair"][1] is True
    assert torch.equal(loaded[7]["deep"], state[7]["deep"])
    assert torch.equal(loaded["a"], state["a"])
    with pytest.raises(CheckpointError, match="cannot store a set"):
        checkpoints.save_checkpoint(tmp_path, 6, {"bad": {1}})


def test_divergence_is_reported_not_averaged_away(tmp_path):
    class Diverging:
        name, action_spec = "diverging", None

        def update(self, batch):
            return Update({"loss": torch.tensor(float("nan"))})

        def state_dict(self):
            return {}

    with pytest.raises(RecrlError, match="loss of train is not finite by step 10"):
        train(tmp_path / "r", "bc", "item", learner=Diverging())


@pytest.mark.parametrize(
    ("options", "message"), [({"steps": 0}, "steps=0 must be at least 1"), ({"checkpoint_every": 250, "log_every": 100}, "choose 300")]
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError) as caught:
        OfflineConfig(**options)
    assert message in str(caught.value)
