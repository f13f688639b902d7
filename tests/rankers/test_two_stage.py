"""A generator names candidates, a chooser draws among them: exact probabilities, none for what is not named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from offline_eval import snips
from recrl.checks import check_policy
from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError, DataError
from recrl.core.objective import Objective
from recrl.core.torch.streams import TensorStreams
from recrl.policies import load_policy
from recrl.policies.items import ItemPolicy, TableScores, item_spec, random_policy
from recrl.policies.two_stage import TwoStagePolicy
from recrl.rankers.lightgbm_ranker import LightGBMConfig, fit_lightgbm
from recrl.replay.logged import LoggedBuffer
from recrl_datasets import UserItemFeatures
from tests.rankers.conftest import ITEMS

SPEC = item_spec(ITEMS)


@pytest.fixture(scope="module")
def observation(store) -> Observation:
    buffer = LoggedBuffer(store.log(), Objective())
    return buffer.observation(torch.arange(0, len(buffer), 25))


@pytest.fixture(scope="module")
def trees(store) -> ItemPolicy:
    log = store.log()
    config = LightGBMConfig(trees=8, leaves=4, min_rows=5)
    scores, _ = fit_lightgbm(log, log.select([]), UserItemFeatures.fit(log, store), config=config)
    return ItemPolicy(scores, SPEC, 0.3)


@pytest.fixture(scope="module")
def policy(fitted) -> TwoStagePolicy:
    return TwoStagePolicy(ItemPolicy(fitted["lightgcn"].scores, SPEC), ItemPolicy(fitted["sasrec"].scores, SPEC, 0.7), 8)


def pools(size: int, count: int) -> torch.Tensor:
    return torch.stack([torch.randperm(ITEMS, generator=torch.Generator().manual_seed(k))[:count] for k in range(size)])


def test_contract(policy, trees, fitted, observation):
    check_policy(policy, observation)
    check_policy(policy.with_spec(item_spec(ITEMS, 5)), observation)
    check_policy(TwoStagePolicy(trees, policy._chooser, 6, SPEC), observation)
    check_policy(TwoStagePolicy(ItemPolicy(fitted["gru4rec"].scores, SPEC), trees, 6), observation)
    pooled = replace(observation, candidates=pools(len(observation), 12))
    check_policy(policy.with_spec(item_spec(ITEMS, 3, pool=True)), pooled)


def test_probabilities_are_the_choosers_over_the_generators_best(policy, fitted, observation):
    best = fitted["lightgcn"].scores(observation, None).topk(8, dim=1).indices
    inside = torch.zeros(len(observation), ITEMS, dtype=torch.bool).scatter(1, best, True)
    scores = fitted["sasrec"].scores(observation, None) / 0.7
    expected = scores.masked_fill(~inside, -torch.inf).log_softmax(1)
    found = torch.stack([policy.log_prob(observation, torch.full((len(observation),), item)) for item in range(ITEMS)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.isneginf(), ~inside)


def test_draws_follow_the_probabilities(policy, observation):
    """2,000 draws of one user: the chi-squared statistic with 7 degrees of freedom is above 30 in 1 of 10,000 seeds."""
    one = observation[:1].map(lambda array: array.expand(2_000, *array.shape[1:]))
    drawn = policy.act(one, TensorStreams(3), step=torch.arange(2_000)).value
    share = torch.stack([policy.log_prob(one[:1], torch.tensor([item])) for item in range(ITEMS)]).exp().squeeze(1)
    counts = torch.bincount(drawn, minlength=ITEMS)
    assert counts[share == 0].sum() == 0
    listed = share > 0
    expected = 2_000 * share[listed]
    assert float(((counts[listed] - expected) ** 2 / expected).sum()) < 30
    best = policy.act(observation, TensorStreams(0), deterministic=True).value
    torch.testing.assert_close(policy.log_prob(observation, best), policy.log_probs(observation).max(1).values)


def test_a_short_list_is_taken_as_it_stands(policy, observation):
    """What a pool of the simulator is: with at most ``pool_size`` candidates the chooser alone acts, draw for draw."""
    pool = pools(len(observation), 7)
    pool[:, 3] = -1
    pooled, spec = replace(observation, candidates=pool), item_spec(ITEMS, 2, pool=True)
    ours = policy.with_spec(spec).act(pooled, TensorStreams(1), step=2)
    alone = ItemPolicy(policy.scores, spec, 0.7).act(pooled, TensorStreams(1), step=2)
    assert torch.equal(ours.value, alone.value)
    assert torch.equal(ours.log_prob, alone.log_prob)
    short = replace(observation, candidates=pools(len(observation), 2))
    with pytest.raises(ConfigError, match="a pool of 2 cannot fill a slate of 3"):
        policy.with_spec(item_spec(ITEMS, 3, pool=True)).act(short, TensorStreams(1))


def test_from_a_long_list_the_generators_best_are_taken(policy, fitted, observation):
    """Padding is never short-listed before an item."""
    pool = pools(len(observation), 12)
    pool[:, [0, 5]] = -1
    pooled = replace(observation, candidates=pool)
    scores = fitted["lightgcn"].scores(observation, None)
    listed = policy.with_spec(item_spec(ITEMS, pool=True)).shortlist(pooled)
    for row in range(len(observation)):
        known = pool[row][pool[row] >= 0]
        wanted = known[scores[row, known].argsort(descending=True)][:8]
        assert set(listed[row].tolist()) == set(wanted.tolist())


def test_saved_with_trees_in_both_stages(policy, trees, observation, tmp_path):
    both = TwoStagePolicy(trees, trees, 9, item_spec(ITEMS, 2))
    both.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"policy.json", "weights.safetensors", "generator-booster.txt", "chooser-booster.txt"}
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, TwoStagePolicy)
    assert (loaded.pool_size, loaded.action_spec, loaded.temperature) == (9, both.action_spec, 0.3)
    slate = both.act(observation, TensorStreams(2), step=1).value
    assert torch.equal(loaded.log_prob(observation, slate), both.log_prob(observation, slate))


def test_off_policy_estimates_give_weight_zero_to_what_is_not_listed(policy, observation, store):
    log = store.log()
    buffer = LoggedBuffer(log, Objective())
    rows = torch.arange(len(buffer))
    with torch.no_grad():
        target = policy.log_prob(buffer.observation(rows), buffer.item.to(torch.int64)).double().numpy()
    assert 0.2 < np.isneginf(target).mean() < 0.95
    reward, user = log.column("long_view").astype(float), log.column("user")
    uniform = np.full(len(rows), -np.log(ITEMS))
    found = snips(target, uniform, reward=reward, cluster=user)
    weights = np.exp(target - uniform)
    assert found.value == pytest.approx((weights * reward).sum() / weights.sum())
    assert found.lower <= found.value <= found.upper
    with pytest.raises(DataError, match="every importance weight is zero"):
        snips(np.full(len(rows), -np.inf), uniform, reward=reward, cluster=user)


def test_mistakes(policy):
    flat = random_policy(SPEC)
    with pytest.raises(ConfigError, match="the generator knows 5 items, the chooser 30"):
        TwoStagePolicy(ItemPolicy(TableScores(torch.zeros(5)), item_spec(5)), flat, 3)
    with pytest.raises(ConfigError, match="a shortlist of 31 of 30 items"):
        TwoStagePolicy(flat, flat, 31)
    with pytest.raises(ConfigError, match="a shortlist of 3 of 30 items for 4 to show"):
        TwoStagePolicy(flat, flat, 3, item_spec(ITEMS, 4))
    with pytest.raises(ConfigError, match="a stage has two stages itself"):
        TwoStagePolicy(policy, flat, 3)
