"""LightGBM as a ranker and as a response baseline, on a planted taste: a user likes the topic of its own number."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

import recrl_datasets as rd
from recrl.core.errors import CheckpointError, ConfigError, DataError
from recrl.policies.items import ItemPolicy, item_spec, popularity_policy
from recrl.rankers import lightgbm_ranker
from recrl.rankers.evaluation import evaluate_ranking
from recrl.rankers.interactions import TEST, VALID, Interactions
from recrl.rankers.lightgbm_ranker import LightGBMConfig, LightGBMResponse, fit_lightgbm
from recrl_datasets import UserItemFeatures, split_by_time

CONFIG = LightGBMConfig(trees=60, leaves=6, min_rows=10, learning_rate=0.2, stopping_rounds=10)


@pytest.fixture(scope="module")
def parts(store):
    return split_by_time(store.log())


@pytest.fixture(scope="module")
def features(parts, store):
    return UserItemFeatures.fit(parts.train, store)


@pytest.fixture(scope="module")
def topics(tmp_path_factory) -> rd.Store:
    """100 users of two tastes see 40 of 60 items: a click has probability 0.8 where topic and taste agree, else 0.2."""
    rng = np.random.default_rng(3)
    user, item = np.repeat(np.arange(100), 40), np.concatenate([rng.permutation(60)[:40] for _ in range(100)])
    match = user % 2 == item % 2
    frame = {
        "user_id": user,
        "item_id": item,
        "timestamp_ms": 1_600_000_000_000 + rng.permutation(4000),
        "click": rng.random(4000) < 0.2 + 0.6 * match,
    }
    frame["like"] = frame["click"] & (rng.random(4000) < 0.3)
    frame["follow"] = np.zeros(4000, dtype=bool)
    users = pl.DataFrame({"user_id": np.arange(100), "taste": [f"t{u % 2}" for u in range(100)]})
    items = pl.DataFrame({"item_id": np.arange(60), "topic": [f"t{i % 2}" for i in range(60)]})
    folder = tmp_path_factory.mktemp("topics")
    return rd.from_frame(pl.DataFrame(frame).cast({pl.Boolean: pl.UInt8}), name="topics", users=users, items=items, stores=folder)


def test_the_ranker_finds_the_taste_and_stops_early(topics):
    """About 1.3 of a user's clicked items are among its ten best, 0.8 among the ten most popular; over 90 users 4 standard errors apart."""
    log = topics.log()
    parts = split_by_time(log)
    features = UserItemFeatures.fit(parts.train, topics)
    scores, metrics = fit_lightgbm(parts.train, parts.valid, features, positives="click", config=CONFIG, seed=1)
    rows = Interactions.from_log(log, "click").cut_by_time(log, parts)
    ranker = ItemPolicy(scores, item_spec(60))
    popular = popularity_policy(torch.from_numpy(rows.counts()), item_spec(60))
    for part in (VALID, TEST):
        ours, plain = (evaluate_ranking(policy, rows, part) for policy in (ranker, popular))
        assert ours.recall > plain.recall
        assert ours.ndcg > plain.ndcg
    assert {row["name"] for row in metrics} == {"valid_ndcg@10"}
    assert len(metrics) < CONFIG.trees
    best = max(metrics, key=lambda row: row["value"])["step"]
    assert scores.texts()["booster.txt"].count("\nTree=") == best
    again, _ = fit_lightgbm(parts.train, parts.valid, features, positives="click", config=CONFIG, seed=1)
    assert again.texts() == scores.texts()


def test_ties_do_not_flatter(parts, features):
    """Trees that cannot split score all items alike: NDCG@10 is that of a random order, not that of positives which stand first.

    Each of 20 seeds draws other negatives and orders; the mean of their values has a standard error below 0.01, so a distance
    of 0.05 has a probability below 1 in 100,000.
    """
    flat = LightGBMConfig(trees=1, min_rows=10_000)
    fit = lambda seed: fit_lightgbm(parts.train, parts.valid, features, positives="long_view", config=flat, seed=seed)[1][0]["value"]  # noqa: E731
    rng, drawn = np.random.default_rng(0), []
    for seed in range(1, 21):
        queries = lightgbm_ranker._queries(parts.valid, "long_view", flat.negatives, seed)
        ends = np.cumsum(queries.sizes)
        for label in np.split(queries.label, ends[:-1]):
            discount = 1.0 / np.log2(np.arange(2, 12))
            ideal = (np.sort(label)[::-1][:10] * discount[: label.size]).sum()
            drawn += [(rng.permutation(label)[:10] * discount[: label.size]).sum() / ideal if ideal else 1.0 for _ in range(20)]
    assert np.mean([fit(seed) for seed in range(20)]) == pytest.approx(np.mean(drawn), abs=0.05)


def test_without_validation_rows_every_tree_stands(store, parts, features):
    told = []
    config = LightGBMConfig(trees=5, min_rows=5)
    tell = lambda done, text: told.append(done)  # noqa: E731
    scores, metrics = fit_lightgbm(parts.train, store.log().select([]), features, config=config, progress=tell)
    assert metrics == []
    assert told == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert scores.texts()["booster.txt"].count("\nTree=") == 5


def test_mistakes(parts, features):
    with pytest.raises(ConfigError, match="negatives=0 must be at least 1"):
        LightGBMConfig(negatives=0)
    with pytest.raises(DataError, match="no training row has 'long_view'"):
        fit_lightgbm(parts.train.select(parts.train.column("long_view") == 0), parts.valid, features, positives="long_view")
    with pytest.raises(DataError, match="no behaviour varies"):
        LightGBMResponse.fit(parts.train.select(parts.train.column("long_view") == 1), parts.valid, features)


def test_the_response_baseline_predicts_held_out_rows(topics, tmp_path):
    """No predictor has an AUC above 0.8 here.

    On 400 held-out rows the AUC has a standard error near 0.022: one that found the taste is below 0.7 in less than 1 of 10,000 seeds.
    """
    parts, told = rd.split_by_time(topics.log()), []
    features = rd.UserItemFeatures.fit(parts.train, topics)
    model = LightGBMResponse.fit(parts.train, parts.valid, features, config=CONFIG, seed=2, progress=lambda done, text: told.append(done))
    assert model.behaviours == ("click", "like"), "follow never happened: there is nothing to learn"
    held = parts.test
    assert 0.7 < model.auc(held)["click"] < 0.88
    user, item = held.column("user"), held.column("item")
    probability = model.probabilities(user, item)
    match = user % 2 == item % 2
    assert probability[match, 0].mean() == pytest.approx(0.8, abs=0.08)
    assert probability[~match, 0].mean() == pytest.approx(0.2, abs=0.08)
    assert max(told) <= 1.0
    assert np.isnan(model.auc(held.select(held.column("click") == 1))["click"])

    model.save(tmp_path / "response")
    loaded = LightGBMResponse.load(tmp_path / "response")
    np.testing.assert_array_equal(loaded.probabilities(user, item), probability)
    (tmp_path / "response" / "click.txt").write_text("broken")
    with pytest.raises(CheckpointError, match="cannot be read"):
        LightGBMResponse.load(tmp_path / "response")
