"""Rankers as policies, candidate generators and sources of item vectors."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from recrl.checks import check_policy
from recrl.core.contracts import Observation
from recrl.core.errors import CheckpointError, ConfigError
from recrl.core.objective import Objective
from recrl.policies import load_policy
from recrl.policies.items import ItemPolicy, item_spec, random_policy
from recrl.rankers import RECBOLE_MODELS, SEQUENTIAL
from recrl.rankers.evaluation import evaluate_ranking, ranking_metrics
from recrl.rankers.interactions import TEST, TRAIN, Interactions, behaviour_mask
from recrl.rankers.lightgbm_ranker import LightGBMConfig, fit_lightgbm
from recrl.rankers.ranker import Ranker
from recrl.replay.logged import LoggedBuffer
from recrl_datasets import UserItemFeatures
from tests.rankers.conftest import ITEMS, USERS

TREES = LightGBMConfig(trees=8, leaves=4, min_rows=5)


@pytest.fixture(scope="module")
def policies(fitted, store) -> dict[str, ItemPolicy]:
    log = store.log()
    scores = {name: one.scores for name, one in fitted.items()}
    scores["lightgbm"], _ = fit_lightgbm(log, log.select([]), UserItemFeatures.fit(log, store), config=TREES)
    return {name: ItemPolicy(one, item_spec(ITEMS), 0.7) for name, one in scores.items()}


@pytest.fixture(scope="module")
def observation(store) -> Observation:
    """States of the log: empty, short and full histories, and a user nobody knows."""
    buffer = LoggedBuffer(store.log(), Objective())
    seen = buffer.observation(torch.arange(0, len(buffer), 25))
    user = seen.user.clone()
    user[0] = -1
    return Observation(user=user, history_items=seen.history_items, history_feedback=seen.history_feedback, clock=seen.clock)


@pytest.mark.parametrize("name", [*RECBOLE_MODELS, "lightgbm"])
def test_contract(name, policies, observation):
    check_policy(policies[name], observation)
    check_policy(policies[name].with_spec(item_spec(ITEMS, 3)), observation)
    pool = torch.stack([torch.randperm(ITEMS, generator=torch.Generator().manual_seed(k))[:9] for k in range(len(observation))])
    pooled = Observation(**{**vars(observation), "candidates": pool})
    check_policy(policies[name].with_spec(item_spec(ITEMS, 2, pool=True)), pooled)
    whole = policies[name].scores(observation, None)
    torch.testing.assert_close(policies[name].scores(pooled, pool), whole.gather(1, pool), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*RECBOLE_MODELS, "lightgbm"])
def test_saved_policies_load_without_recbole(name, policies, observation, tmp_path, monkeypatch):
    policies[name].save(tmp_path / name)
    for module in [m for m in sys.modules if m.split(".")[0] == "recbole"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "recbole", None)
    loaded = load_policy(tmp_path / name)
    assert torch.equal(loaded.scores(observation, None), policies[name].scores(observation, None))
    files = {p.name for p in (tmp_path / name).iterdir()}
    assert files == {"policy.json", "weights.safetensors"} | ({"booster.txt"} if name == "lightgbm" else set())


def test_the_booster_is_a_model_file_of_lightgbm(policies, tmp_path):
    lightgbm = pytest.importorskip("lightgbm")
    policies["lightgbm"].save(tmp_path)
    booster = lightgbm.Booster(model_file=str(tmp_path / "booster.txt"))
    users, items = policies["lightgbm"].scores.user_features.numpy(), policies["lightgbm"].scores.item_features.numpy()
    pairs = np.concatenate([np.repeat(users[4:5], ITEMS, axis=0), items], axis=1)
    scores = policies["lightgbm"].scores(Observation(user=torch.tensor([4])), None)[0]
    np.testing.assert_allclose(scores.numpy(), booster.predict(pairs), rtol=1e-6)
    (tmp_path / "booster.txt").write_text("tree\nnonsense")
    with pytest.raises(CheckpointError, match=r"booster\.txt"):
        load_policy(tmp_path)
    (tmp_path / "booster.txt").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(tmp_path)


def test_a_policy_reads_no_file_outside_its_folder(policies, tmp_path):
    policies["lightgbm"].save(tmp_path / "policy")
    (tmp_path / "policy" / "booster.txt").rename(tmp_path / "booster.txt")
    path = tmp_path / "policy" / "policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "texts": ["../booster.txt"]}))
    with pytest.raises(CheckpointError):
        load_policy(tmp_path / "policy")


@pytest.mark.parametrize("name", list(RECBOLE_MODELS))
def test_the_unknown_get_what_is_popular(name, policies, fitted):
    empty = torch.full((2, 5), -1)
    unknown = Observation(user=torch.tensor([-1, USERS]), history_items=empty, history_feedback=torch.zeros(2, 5, dtype=torch.uint8))
    scores = policies[name].scores(unknown, None)
    assert torch.equal(scores, fitted[name].scores.log_counts.expand(2, -1))


def test_a_sequential_ranker_reads_the_positives_it_was_trained_on(fitted):
    scores = fitted["sasrec"].scores
    bits = torch.tensor([[2, 0, 3, 1, 2, 2, 2]], dtype=torch.uint8)
    items = torch.tensor([[-1, 4, 8, 15, 16, 23, 29]])
    whole = Observation(history_items=items, history_feedback=bits)
    assert scores.sequences(whole)[0].tolist() == [[5, 9, 16, 17, 24, 30]]
    config = {**scores.config(), "feedback": behaviour_mask("long_view")}
    picky = type(scores).load(config, scores.state_dict())
    picky.load_state_dict(scores.state_dict())
    # the first item is padding although its byte is set
    ids, count = picky.sequences(whole)
    assert (ids.tolist(), count.tolist()) == ([[9, 17, 24, 30, 0, 0]], [4])
    short = Observation(history_items=torch.tensor([[8, 16, 23, 29]]), history_feedback=torch.zeros(1, 4, dtype=torch.uint8))
    torch.testing.assert_close(picky(whole, None), scores(short, None))


@pytest.mark.parametrize("name", [*RECBOLE_MODELS, "lightgbm"])
def test_candidates_and_vectors(name, policies, observation, tmp_path):
    policies[name].save(tmp_path)
    ranker = Ranker.load(tmp_path)
    scores = policies[name].scores(observation, None)
    found = ranker.top_candidates(observation, 5)
    assert torch.equal(scores.gather(1, found), scores.sort(dim=1, descending=True).values[:, :5])
    with pytest.raises(ConfigError, match="31 candidates of 30 items"):
        ranker.top_candidates(observation, 31)
    if name == "lightgbm":
        with pytest.raises(ConfigError, match="trees have no item vectors"):
            ranker.item_vectors()
        return
    vectors = ranker.item_vectors()
    assert vectors.shape == (ITEMS, 8)
    bounded = ranker.item_vectors(bounded=True)
    assert bounded.abs().max() <= 1.0
    inside = bounded.abs() < 1.0
    torch.testing.assert_close((bounded * 2.5 * vectors.std(0, correction=0))[inside], vectors[inside])
    if name in SEQUENTIAL:
        assert not vectors.requires_grad


def test_only_rankers_are_rankers():
    with pytest.raises(ConfigError, match="not a supervised ranker"):
        Ranker(random_policy(item_spec(4)))


def test_ranking_by_hand():
    """Items ranked 2, 0, 3, 1. One case holds {0, 1, 3}, the other {1}."""
    scores = torch.tensor([[0.5, -1.0, 2.0, 0.1]]).repeat(2, 1)
    relevant = torch.tensor([[True, True, False, True], [False, True, False, False]])
    log2 = np.log2
    first = (1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4))
    recall, ndcg = ranking_metrics(scores, relevant, 3).tolist()
    assert recall == pytest.approx([2 / 3, 0.0])
    assert ndcg == pytest.approx([first, 0.0])
    assert ranking_metrics(scores, relevant, 4)[1, 1] == pytest.approx(1 / log2(5))


def test_what_a_user_had_before_is_not_ranked():
    """A table ranks 0 first; the user had 0 in training and holds out 1, which is then on top; for a user without it, it is second."""
    n = 4
    rows = Interactions(
        *(np.array(v, dtype=np.int64) for v in ([0, 0, 1, 1], [0, 1, 2, 1])),
        np.arange(4.0),
        np.zeros(4, np.uint8),
        np.arange(4),
        np.array([TRAIN, TEST, TRAIN, TEST], np.uint8),
        2,
        n,
    )
    table = random_policy(item_spec(n))
    table.scores.table.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    found = evaluate_ranking(table, rows, TEST, k=1)
    assert (found.recall, found.cases) == (0.5, 2)
    assert evaluate_ranking(table, rows, TEST, k=2).ndcg == pytest.approx((1 + 1 / np.log2(3)) / 2)
    with pytest.raises(ConfigError, match="cannot rank the top 5 of 4"):
        evaluate_ranking(table, rows, TEST, k=5)
    with pytest.raises(ConfigError, match="part 0 is not held out"):
        evaluate_ranking(table, rows, TRAIN)
