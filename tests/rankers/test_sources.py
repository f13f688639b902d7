"""``--vectors`` and ``--candidates``: what a trained ranker gives to other learners, and the user's mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import recrl_datasets as rd
from recrl.cli import main
from recrl.pipeline.data import DataOptions
from recrl.pipeline.setting import Setting
from recrl.policies import load_policy
from recrl.policies.items import item_spec, random_policy
from recrl.policies.two_stage import TwoStagePolicy
from tests.rankers.conftest import ITEMS, taste_frame

BRIEF = ["--ranker.recbole.epochs", "1", "--ranker.recbole.embedding-size", "6", "--ranker.lightgbm.trees", "5"]
STEPS = ["--steps", "20", "--log-every", "10", "--checkpoint-every", "10", "--batch-size", "32"]


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory) -> Path:
    """Folder with runs of three rankers on ``taste``, one of them on RecBole's split, and of one on other data."""
    folder = tmp_path_factory.mktemp("sources")
    rd.from_frame(taste_frame(seed=1), name="other", stores=folder / "stores")
    asked = ["--runs", str(folder), *BRIEF]
    for name, more in {
        "lightgcn": ["--data", "taste", "--stores", str(stores)],
        "lightgbm": ["--data", "taste", "--stores", str(stores)],
        "peeking": ["--data", "taste", "--stores", str(stores), "--ranker.split", "recbole"],
        "foreign": ["--data", "other", "--stores", str(folder / "stores")],
    }.items():
        assert main(["train", name if name.startswith("light") else "bpr", "--run", name, *asked, *more]) == 0
    return folder


@pytest.fixture
def asked(stores, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["--data", "taste", "--stores", str(stores), "--vector-size", "8", *STEPS]


def call(capfd, *words):
    capfd.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capfd.readouterr().out.strip().splitlines()[-1])


def test_item_vectors_of_a_ranker(trained, stores, asked, capfd):
    run = trained / "lightgcn"
    policy = run / "artifacts" / "policies" / "lightgcn"
    options = DataOptions("taste", stores=stores, vectors=str(run))
    vectors = Setting(rd.open_store(stores / "taste"), options).item_vectors
    raw = load_policy(policy).scores.item_vectors
    assert vectors.shape == (ITEMS, 6)
    assert vectors.abs().max() <= 1.0
    inside = vectors.abs() < 1.0
    torch.testing.assert_close((vectors * 2.5 * raw.std(0, correction=0))[inside], raw[inside])
    torch.testing.assert_close(vectors.std(0), torch.full((6,), 0.4), atol=0.05, rtol=0)

    done = call(capfd, "train", "bc", *asked, "--vectors", policy)
    assert torch.equal(load_file(Path(done["policy"]) / "weights.safetensors")["query.item_vectors"], vectors)
    written = json.loads((Path(done["run"]) / "config.json").read_text())["vectors"]
    assert written.startswith("lightgcn ")
    # wherever the same ranker lies it is the same source; another one is another
    shutil.copytree(policy, "elsewhere/lightgcn")
    assert call(capfd, "train", "bc", *asked, "--vectors", "elsewhere/lightgcn")["run"] == done["run"]
    assert main(["train", "bc", *asked]) == 2
    assert "was started with other options: vectors" in " ".join(capfd.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(("learner", "named"), [("bc", "bc-embedding-two-stage"), ("lightgbm", "lightgbm-two-stage")])
def test_a_learner_chooses_among_the_candidates_of_a_ranker(learner, named, trained, asked, capfd):
    words = ["train", learner, *asked, "--candidates", str(trained / "lightgcn"), "--pool-size", "7", *BRIEF[-2:]]
    done = call(capfd, *words)
    assert Path(done["policy"]).name == named
    policy = load_policy(Path(done["policy"]))
    assert isinstance(policy, TwoStagePolicy)
    assert policy.pool_size == 7
    lightgcn = load_policy(trained / "lightgcn" / "artifacts" / "policies" / "lightgcn")
    for ours, theirs in zip(policy.generator.scores.buffers(), lightgcn.scores.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    config = json.loads((Path(done["run"]) / "config.json").read_text())["learner"]
    assert config["candidates"].startswith("lightgcn ")
    # a run that is done is only loaded
    assert call(capfd, *words)["policy"] == done["policy"]
    estimated = call(capfd, "ope", done["run"], *asked[:6], "--behaviour-steps", "5", "--estimators", "snips")
    assert named in {row["policy"] for row in estimated["estimates"]}


MISTAKES = [
    (["--vectors", "nowhere"], ["no saved policy in nowhere"]),
    (["--vectors", "{}/lightgbm"], ["trees have no item vectors"]),
    (["--vectors", "{}/foreign"], ["bpr was trained on other data, of 30 items", "train it with --data taste"]),
    (["--vectors", "{}/peeking"], ["bpr has learned from rows after the cut", "--ranker.split time"]),
    (["--vectors", "random"], ["this policy is not a supervised ranker"]),
    (["--vectors", "two"], ["two holds 2 policies", "two/artifacts/policies/a"]),
    (["--candidates", "{}/foreign"], ["bpr was trained on other data"]),
    (["--candidates", "{}/peeking"], ["bpr has learned from rows after the cut"]),
    (["--candidates", "{}/lightgcn", "--pool-size", "31"], ["a shortlist of 31 of 30 items", "choose 1 to 30"]),
    (["--candidates", "few", "--pool-size", "3"], ["few was trained on other data, of 5 items"]),
]


@pytest.mark.parametrize(("words", "messages"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_mistakes(words, messages, trained, asked, capfd):
    random_policy(item_spec(ITEMS)).save(Path("random"))
    random_policy(item_spec(5)).save(Path("few"))
    for name in "ab":
        random_policy(item_spec(ITEMS)).save(Path("two", "artifacts", "policies", name))
    assert main(["train", "bc", *asked, *(word.format(trained) for word in words)]) == 2
    said = " ".join("".join(capfd.readouterr()).replace("│", " ").split())
    assert all(message in said for message in messages), said
    assert not list(Path("runs").rglob("policy.json"))
