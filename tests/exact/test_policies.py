"""Closed forms of the policies: Plackett-Luce, the pooling encoder, fusion weights."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from recrl.core.contracts import ActionSpec, Observation
from recrl.core.errors import CheckpointError, ConfigError, StorageError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies import load_policy
from recrl.policies.discrete import DiscretePolicy
from recrl.policies.encoders import EncoderConfig, HistoryEncoder, build_encoder
from recrl.policies.fusion import FusionScores, PredictedBehaviours
from recrl.policies.gaussian import GaussianPolicy
from recrl.policies.items import (
    ItemPolicy,
    QueryScores,
    SoftmaxScores,
    TableScores,
    item_spec,
    plackett_luce_log_prob,
    popularity_policy,
    random_policy,
)
from recrl.policies.networks import Critics, initialise, polyak
from recrl.policies.vector import ActorConfig, VectorPolicy
from simulators.response import LatentResponse
from simulators.toy import TOY_CONFIG, toy_world
from tests.support import small


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=6), st.integers(1, 3))
def test_plackett_luce_probabilities_add_up_to_one(logits, size):
    slates = torch.tensor(list(itertools.permutations(range(len(logits)), size)))
    log_prob = plackett_luce_log_prob(torch.tensor(logits, dtype=torch.float64).expand(len(slates), -1), slates)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-9)


def test_plackett_luce_by_hand():
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    log_prob = plackett_luce_log_prob(weights.log(), torch.tensor([[3, 0, 2]]))
    assert log_prob.exp().item() == pytest.approx(4 / 10 * 1 / 6 * 3 / 5, rel=1e-6)


def test_drawn_slates_follow_plackett_luce():
    """Chi-square over the 12 ordered pairs of 4 items; false-alarm rate 1e-6."""
    policy = ItemPolicy(TableScores(torch.tensor([0.0, 0.5, 1.0, -1.0])), item_spec(4, 2))
    n = 20_000
    observation = Observation(user=torch.arange(n))
    drawn = policy.act(observation, TensorStreams(0)).value
    pairs = list(itertools.permutations(range(4), 2))
    counts = [int(((drawn[:, 0] == a) & (drawn[:, 1] == b)).sum()) for a, b in pairs]
    probabilities = policy.log_prob(Observation(user=torch.arange(12)), torch.tensor(pairs)).double().exp().numpy()
    assert stats.chisquare(counts, n * probabilities / probabilities.sum()).pvalue > 1e-6


def test_popularity_and_random_have_the_probabilities_they_name():
    counts = torch.tensor([0, 3, 8])
    observation = Observation(user=torch.arange(3))
    popular = popularity_policy(counts, item_spec(3)).log_prob(observation, torch.arange(3)).exp()
    assert popular.tolist() == pytest.approx([1 / 14, 4 / 14, 9 / 14])
    assert random_policy(item_spec(3)).log_prob(observation, torch.arange(3)).exp().tolist() == pytest.approx([1 / 3] * 3)


def test_pool_candidates_are_the_only_ones_shown():
    policy = popularity_policy(torch.arange(6), item_spec(6, 2, pool=True))
    observation = Observation(user=torch.arange(4), candidates=torch.tensor([[5, 2, 0]]).expand(4, -1))
    shown = policy.act(observation, TensorStreams(0)).value
    assert set(shown.flatten().tolist()) <= {0, 2, 5}
    assert torch.isneginf(policy.log_prob(observation, torch.tensor([[1, 2]]).expand(4, -1))).all()
    with pytest.raises(ConfigError, match="the observation lists no candidates"):
        policy.act(Observation(user=torch.arange(4)), TensorStreams(0))


@settings(max_examples=20)
@given(
    pool=st.lists(st.integers(-1, 6), min_size=3, max_size=6).filter(lambda p: sum(i >= 0 for i in p) >= 3),
    size=st.integers(1, 3),
    temperature=st.sampled_from([0.3, 1.0]),
)
def test_slates_from_a_padded_pool_have_probability_one_together(pool, size, temperature):
    """Every sequence over the catalogue is tried: repeated items, items outside the pool and padding have none of it."""
    listed = list(dict.fromkeys(i for i in pool if i >= 0))
    pool = [i for k, i in enumerate(pool) if i < 0 or pool.index(i) == k]
    assume(len(listed) >= size)
    policy = ItemPolicy(TableScores(torch.linspace(-2, 2, 7)), item_spec(7, size, pool=True), temperature)
    slates = torch.tensor(list(itertools.product(range(-1, 7), repeat=size)))
    observation = Observation(user=torch.arange(len(slates)), candidates=torch.tensor(pool).expand(len(slates), -1))
    log_prob = policy.log_prob(observation, slates)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    possible = torch.tensor([len(set(s)) == size and set(s) <= set(listed) for s in slates.tolist()])
    assert torch.equal(torch.isneginf(log_prob), ~possible)
    shown = policy.act(observation, TensorStreams(0)).value
    assert set(shown.flatten().tolist()) <= set(listed)


def test_what_no_catalogue_holds_is_impossible():
    policy = random_policy(item_spec(3, 2))
    observation = Observation(user=torch.arange(4))
    log_prob = policy.log_prob(observation, torch.tensor([[0, 1], [0, 0], [0, 3], [-1, 0]]))
    assert log_prob.exp().tolist() == pytest.approx([1 / 6, 0.0, 0.0, 0.0])


def test_a_pool_must_fill_the_slate():
    policy = popularity_policy(torch.arange(6), item_spec(6, 3, pool=True))
    with pytest.raises(ConfigError, match="a pool of 2 cannot fill a slate of 3"):
        policy.act(Observation(user=torch.arange(2), candidates=torch.tensor([[1, 2], [3, 4]])), TensorStreams(0))
    # places that padding leaves over show nothing, and that is no slate
    short = policy.act(Observation(user=torch.arange(1), candidates=torch.tensor([[4, -1, 2]])), TensorStreams(0))
    assert short.value[0, 2] == -1
    assert torch.isneginf(short.log_prob).all()


def test_cloning_a_slate_moves_its_first_items_up():
    scores = SoftmaxScores(ActorConfig(EncoderConfig("flat", features=2), hidden=(4,)), small.item_vectors(), torch.zeros(small.N_ITEMS))
    policy = ItemPolicy(scores, item_spec(small.N_ITEMS, 3))
    observation, slate = Observation(features=torch.ones(1, 2)), torch.tensor([[4, 1, 7]])
    policy.log_prob(observation, slate).sum().backward()
    assert torch.isfinite(scores.bias.grad).all()
    assert (scores.bias.grad[slate[0]] > 0).all()
    assert scores.bias.grad.sum().item() == pytest.approx(0.0, abs=1e-6)


def test_history_encoder_by_hand():
    # vectors of mean square one, so that the encoder leaves them as they are
    encoder = HistoryEncoder(torch.tensor([[1.0], [-1.0]]), history=3, recency=0.5)
    observation = Observation(
        history_items=torch.tensor([[-1, 0, 1]]),
        history_feedback=torch.tensor([[0, 0b011, 0b001]], dtype=torch.uint8),
        clock=torch.tensor([[0.1, 0.2, 0.3, 0.4]]),
    )
    encoded = encoder(observation)[0].tolist()
    # weights .5 and 1: mean of all shown (.5 * 1 - 1) / 1.5; long views: item 0 alone; no like
    assert encoded[:3] == pytest.approx([-1 / 3, 1.0, 0.0])
    assert encoded[3:5] == pytest.approx([1.0, 1 / 3])
    assert encoded[10:] == pytest.approx([2 / 3, 0.1, np.log1p(0.2), 0.3, 0.4])


def test_unknown_items_and_short_histories_encode():
    encoder = HistoryEncoder(torch.ones(2, 1), history=4, recency=0.9)
    observation = Observation(
        history_items=torch.tensor([[7, -1]]), history_feedback=torch.zeros(1, 2, dtype=torch.uint8), clock=torch.zeros(1, 4)
    )
    assert torch.isfinite(encoder(observation)).all()


def test_twin_critics_are_independent_networks():
    critics = Critics(3, 2, (4,), members=2)
    initialise(critics, 0)
    state, action = torch.randn(5, 3), torch.randn(5, 2)
    before = critics(state, action)
    assert before.shape == (2, 5)
    assert not torch.allclose(before[0], before[1])
    with torch.no_grad():
        critics.layers[0].weight[1] += 1.0
    after = critics(state, action)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_polyak_moves_by_tau():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.9 * a.weight + 0.1 * b.weight
    polyak(a, b, 0.1)
    assert torch.allclose(a.weight, expected)


def responses(dim: int = 4) -> LatentResponse:
    rng = torch.Generator().manual_seed(0)
    users, items = torch.randn(6, dim + 8, generator=rng), torch.randn(8, dim + 8, generator=rng)
    loadings = torch.tensor([1.0, 0.5, 0.4, 0.3, 0.2, 0.1, -0.2])
    return LatentResponse(users, items, torch.linspace(0, -3, 7), loadings, torch.tensor([0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.01]))


def test_catalogue_predictions_equal_those_of_listed_candidates():
    predictions = PredictedBehaviours.of(responses())
    users = torch.tensor([0, 4, -1])
    listed = predictions(users, torch.arange(7).expand(3, -1))
    assert torch.allclose(predictions(users, None), listed, atol=1e-5)
    items = torch.tensor([6, 0, 3])
    assert torch.equal(predictions.as_weights(users, items), listed[torch.arange(3), items].clamp(-1.0, 1.0))


@pytest.mark.parametrize("pool", [0, 20])
def test_a_policy_ranks_as_a_simulated_platform_does_with_its_weights(pool):
    """Random weights, every behaviour in play; what the platform shows are the policy's highest scores among the candidates."""
    world = toy_world(replace(TOY_CONFIG, pool_size=pool, exclude_recent=6, observe_scores=True))
    streams, predictions = TensorStreams(1), PredictedBehaviours.of(world.scorer)
    state = world.initial_state(torch.arange(-1, 49), streams)
    for step in range(3):
        weights = 2.0 * streams.uniform(torch.arange(50), step, Purpose.EXPLORATION, (7,)) - 1.0
        candidates = world.observe(state).candidates
        scores = (predictions(state.user, candidates) * weights.unsqueeze(1)).sum(2)
        if not pool:
            recent = state.history_items[:, -6:].long()
            scores.scatter_(1, recent.clamp_min(0), scores.gather(1, recent.clamp_min(0)).masked_fill(recent >= 0, -torch.inf))
        state, outcome = world.transition(state, weights, streams)
        best = scores.topk(6, dim=1)
        shown = (candidates.unsqueeze(2) == outcome.shown.unsqueeze(1)).to(torch.float32)
        found = (shown * scores.nan_to_num(neginf=0.0).unsqueeze(2)).sum(1)
        torch.testing.assert_close(found, best.values, atol=1e-4, rtol=1e-4)


def test_fusion_weights_rank_by_the_weighted_behaviour():
    predictions = PredictedBehaviours.of(responses())
    query = VectorPolicy(small.task("fusion_weights").action_spec, ActorConfig(EncoderConfig("flat", features=2)))
    scores = FusionScores(query, predictions)
    observation = Observation(features=torch.ones(3, 2), user=torch.arange(3))
    expected = (predictions(torch.arange(3), None) * query.actor(observation).unsqueeze(1)).sum(-1)
    assert torch.equal(scores(observation, None), expected)


def test_a_fusion_policy_survives_saving(tmp_path):
    predictions = PredictedBehaviours.of(responses())
    query = VectorPolicy(small.task("fusion_weights").action_spec, ActorConfig(EncoderConfig("flat", features=2)))
    policy = ItemPolicy(FusionScores(query, predictions), item_spec(7), 0.3)
    policy.save(tmp_path)
    observation = Observation(features=torch.ones(3, 2), user=torch.arange(3))
    assert torch.equal(load_policy(tmp_path).log_prob(observation, torch.arange(3)), policy.log_prob(observation, torch.arange(3)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: item_spec(0), "needs the number|choices"),
        (lambda: ActionSpec("slate", (), choices=3), "shape () does not fit kind 'slate'"),
        (lambda: ActionSpec("embedding", (3,), choices=3), "choices=3 does not fit kind 'embedding'"),
        (lambda: ActionSpec("continuous", (3,), low=1.0, high=1.0), "bounds [1.0, 1.0] are empty"),
        (
            lambda: ItemPolicy(TableScores(torch.zeros(3)), item_spec(4)),
            "an item policy over 3 items cannot take 'item' actions with 4 choices",
        ),
        (lambda: ItemPolicy(TableScores(torch.zeros(3)), item_spec(3), 0.0), "temperature=0.0 must be positive"),
        (lambda: VectorPolicy(item_spec(3), ActorConfig()), "a vector policy cannot take 'item' actions"),
        (lambda: GaussianPolicy(item_spec(3), ActorConfig()), "a Gaussian policy cannot take 'item' actions"),
        (lambda: GaussianPolicy(ActionSpec("continuous", (1,)), ActorConfig(exploration=9.0)), "exploration=9.0 lies outside"),
        (lambda: DiscretePolicy(item_spec(3), ActorConfig()), "a discrete policy cannot take 'item' actions"),
        (lambda: build_encoder(EncoderConfig(), None), "a history encoder needs item vectors"),
        (lambda: EncoderConfig("flat"), "a flat encoder needs the number of features"),
        (lambda: EncoderConfig(recency=0.0), "recency=0.0"),
        (lambda: EncoderConfig("transformer", width=10, heads=4), "width=10, layers=2, heads=4 do not fit"),
        (lambda: EncoderConfig("gru", layers=0), "layers=0"),
        (lambda: build_encoder(EncoderConfig("gru"), None), "a gru encoder needs item vectors"),
        (lambda: build_encoder(EncoderConfig("flat", features=3), None)(Observation(features=torch.ones(1, 2))), "holds 2 features, not 3"),
        (lambda: build_encoder(EncoderConfig("flat", features=3), None)(Observation(user=torch.ones(1))), "holds no features, not 3"),
        (
            lambda: build_encoder(EncoderConfig("gru"), small.item_vectors())(Observation(features=torch.ones(1, 2))),
            "the observation holds no history_items",
        ),
        (lambda: ActorConfig(exploration=0.0), "exploration=0.0 must be positive"),
        (
            lambda: QueryScores(VectorPolicy(small.task("fusion_weights").action_spec, ActorConfig(), small.item_vectors())),
            "query scores need an embedding policy",
        ),
    ],
)
def test_bad_policies_are_refused(build, message):
    with pytest.raises(ConfigError) as caught:
        build()
    assert any(part in str(caught.value) for part in message.split("|"))


def test_broken_saved_policies_are_refused(tmp_path):
    with pytest.raises(StorageError, match=r"policy\.json is missing"):
        load_policy(tmp_path)
    policy = random_policy(item_spec(3))
    policy.save(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="weights cannot be read"):
        load_policy(tmp_path)
    policy.save(tmp_path)
    text = (tmp_path / "policy.json").read_text()
    (tmp_path / "policy.json").write_text(text.replace('"kind": "items"', '"kind": "magic"'))
    with pytest.raises(CheckpointError, match="unknown policy kind 'magic'"):
        load_policy(tmp_path)
    (tmp_path / "policy.json").write_text(text.replace('"scores": "table"', '"scores": "softmax"'))
    with pytest.raises(CheckpointError, match="does not fit its configuration"):
        load_policy(tmp_path)
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(StorageError, match="not valid JSON"):
        load_policy(tmp_path)


def test_initialisation_depends_on_the_seed_alone():
    a, b, c = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    initialise(a, 1)
    torch.manual_seed(np.random.default_rng().integers(1 << 30))
    initialise(b, 1)
    initialise(c, 2)
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, c.weight)
