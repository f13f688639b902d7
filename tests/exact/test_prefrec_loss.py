"""PrefRec's losses against brute force: preferences, expectiles, targets, what trains what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.algorithms import prefrec
from recrl.algorithms.adam import Adam
from recrl.algorithms.prefrec import PrefRec, PrefRecConfig, expectile_loss, preference_loss
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.errors import ConfigError
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.ragged import Offsets
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from recrl.preferences.reward import LearnedReward, RewardConfig

FLAT = EncoderConfig("flat", features=2)
TASK = Task(ActionSpec("continuous", (2,)), Objective(Signal("return", discount_within=0.9, discount_across=0.5)))


def rows(count: int, seed: int = 0, lengths=None) -> Transitions:
    rng = torch.Generator().manual_seed(seed)
    seen, after = (Observation(features=torch.randn(count, 2, generator=rng)) for _ in range(2))
    action, reward = torch.rand(count, 2, generator=rng) * 2 - 1, torch.randn(count, 1, generator=rng)
    ends, none = torch.rand(count, generator=rng) < 0.3, torch.zeros(count, dtype=torch.bool)
    segments = None if lengths is None else Offsets.from_lengths(lengths)
    return Transitions(seen, action, reward, after, none, none, ends, segments=segments)


def learned(aggregate="sum", members=3, **options) -> LearnedReward:
    return LearnedReward(RewardConfig(FLAT, (8, 8), members, aggregate, **options), TASK, seed=4)


def by_hand(first, second, y):
    """The loss in double precision, a pair at a time."""
    total = 0.0
    for a, b in zip(np.atleast_2d(first), np.atleast_2d(second), strict=True):
        p = 1 / (1 + np.exp(-(a - b)))
        total -= np.mean([w * np.log(q) + (1 - w) * np.log(1 - q) for w, q in zip(y, p, strict=True)])
    return total


def test_nothing_known_costs_log_two_a_member():
    y = torch.tensor([1.0, 0.0, 0.5])
    assert preference_loss(torch.ones(3), torch.ones(3), y).item() == pytest.approx(np.log(2), abs=1e-6)
    assert preference_loss(torch.ones(4, 3), torch.ones(4, 3), y).item() == pytest.approx(4 * np.log(2), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 6))
def test_loss_and_gradient_are_those_of_brute_force(seed, members, pairs):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, members, pairs)) * 2
    y = rng.choice([0.0, 0.5, 1.0], pairs)
    a, b = (torch.tensor(x, requires_grad=True) for x in (first, second))
    loss = preference_loss(a, b, torch.tensor(y))
    assert loss.item() == pytest.approx(by_hand(first, second, y), abs=1e-9)
    loss.backward()
    # d/da of the cross-entropy: (sigmoid(a - b) - y) / pairs
    expected = (1 / (1 + np.exp(second - first)) - y) / pairs
    np.testing.assert_allclose(a.grad, expected, atol=1e-12)
    np.testing.assert_allclose(b.grad, -expected, atol=1e-12)
    step = 1e-5
    k, e = seed % pairs, seed % members
    nudged = first.copy()
    nudged[e, k] += step
    assert (by_hand(nudged, second, y) - by_hand(first, second, y)) / step == pytest.approx(a.grad[e, k].item(), abs=1e-4)
    swapped = preference_loss(torch.tensor(second), torch.tensor(first), torch.tensor(1 - y))
    assert swapped.item() == pytest.approx(loss.item(), abs=1e-12)


def test_equals_pull_nowhere_where_returns_are_equal():
    a, b = (torch.full((2, 3), 0.7, requires_grad=True) for _ in range(2))
    preference_loss(a, b, torch.full((3,), 0.5)).backward()
    assert not a.grad.any()
    assert not b.grad.any()


def test_an_offset_of_the_reward_cancels_between_equal_lengths_and_pays_for_longer_ones():
    class Constant(torch.nn.Module):
        def __init__(self, network, offset):
            super().__init__()
            self.network, self.offset = network, offset

        def forward(self, batch):
            return self.network(batch) + self.offset

    def difference(lengths, offset, aggregate):
        reward = learned(aggregate)
        reward.network = Constant(reward.network, offset)
        first, second = reward.segment_returns(rows(sum(lengths), lengths=lengths)).chunk(2, dim=1)
        return (first - second).detach()

    equal, unequal, c = [5, 5, 5, 5], [7, 3, 4, 6], 0.25
    torch.testing.assert_close(difference(equal, c, "sum"), difference(equal, 0.0, "sum"), atol=1e-5, rtol=0)
    longer = difference(unequal, c, "sum_any_length") - difference(unequal, 0.0, "sum_any_length")
    torch.testing.assert_close(longer, torch.tensor([c * 3, c * -3]).expand(3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(difference(unequal, c, "mean"), difference(unequal, 0.0, "mean"), atol=1e-5, rtol=0)


def test_summing_over_segments_of_different_lengths_is_refused():
    with pytest.raises(ConfigError, match="would learn that longer is better"):
        learned("sum").segment_returns(rows(10, lengths=[4, 6]))
    with pytest.raises(ConfigError, match="no segments"):
        learned("sum").segment_returns(rows(10))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(0, 99))
def test_ragged_returns_are_those_of_any_padding(lengths, seed):
    """Rows padded to one length with random values and masked out, as other code does it: the same sums and means."""
    batch, reward = rows(sum(lengths), seed, lengths), learned("sum_any_length")
    longest, cut = max(lengths), Offsets.from_lengths(lengths)
    padded = rows(len(lengths) * longest, seed + 1)
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    features, action = padded.observation.features.clone(), padded.action.clone()
    for k, length in enumerate(lengths):
        mask[k, :length] = True
        features[k * longest : k * longest + length] = batch.observation.features[cut[k]]
        action[k * longest : k * longest + length] = batch.action[cut[k]]
    each = reward.network(replace(padded, observation=Observation(features=features), action=action)).unflatten(1, mask.shape)
    torch.testing.assert_close(reward.segment_returns(batch), (each * mask).sum(2), atol=1e-5, rtol=1e-4)
    mean = learned("mean").segment_returns(batch)
    torch.testing.assert_close(mean, (each * mask).sum(2) / mask.sum(1), atol=1e-5, rtol=1e-4)


def test_the_reward_learns_by_the_gradient_of_brute_force():
    """One Adam step on rewards of whole segments, against autograd over a loop of pairs and rows."""
    lengths, y = [3, 4, 2, 5, 1, 3], torch.tensor([1.0, 0.5, 0.0])
    batch, ours, theirs = rows(18, lengths=lengths), learned("mean"), learned("mean")
    cut = Offsets.from_lengths(lengths)
    loss = torch.zeros(())
    for e in range(3):
        for k in range(3):
            means = [theirs.network(batch)[e, cut[s]].mean() for s in (k, k + 3)]
            p = torch.sigmoid(means[0] - means[1])
            loss = loss - (y[k] * p.log() + (1 - y[k]) * (1 - p).log()) / 3
    Adam(theirs.network.parameters(), theirs.config.learning_rate).descend(loss)
    ours.learn(batch, y)
    for a, b in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("expectile", "known"), [(0.5, 0.0), (0.7, 0.337), (0.8, 0.549), (0.9, 0.862)])
def test_expectiles_of_a_normal_law(expectile, known):
    """By quantiles, and by gradient descent to the minimum; the constants are those of the standard normal law."""
    sample = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        loss = expectile_loss(sample - value, expectile).mean()
        (slope,) = torch.autograd.grad(loss, value)
        value.data -= 0.5 * slope
    assert value.item() == pytest.approx(known, abs=0.003)


def test_half_is_the_mean_square_and_expectiles_rise():
    error = torch.linspace(-2, 2, 9)
    assert torch.equal(expectile_loss(error, 0.5), 0.5 * error**2)
    above = [expectile_loss(torch.tensor(1.0), w).item() for w in (0.5, 0.7, 0.9)]
    below = [expectile_loss(torch.tensor(-1.0), w).item() for w in (0.5, 0.7, 0.9)]
    assert above == sorted(above)
    assert below == sorted(below, reverse=True)


def learner(**options) -> PrefRec:
    return PrefRec(PrefRecConfig(ActorConfig(FLAT, (16,)), (16,), **options), TASK, seed=1)


def losses(one: PrefRec, batch: Transitions) -> dict[str, float]:
    return {name: float(value) for name, value in one.update(batch).metrics.items()}


def nudge_policy(one: PrefRec) -> PrefRec:
    with torch.no_grad():
        for name in ("_policy", "_target_policy"):
            for p in getattr(one, name).actor.body.parameters():
                p.add_(0.3)
    return one


def test_no_target_asks_the_policy():
    """The losses of value and critics do not change with the actor, by default; without a value the target is the actor's."""
    batch = rows(64)
    plain, nudged = losses(learner(), batch), losses(nudge_policy(learner()), batch)
    assert all(plain[name] == nudged[name] for name in ("critic_loss", "value_loss", "target_mean"))
    assert plain["actor_loss"] != nudged["actor_loss"]
    assert losses(learner(value="none"), batch)["critic_loss"] != losses(nudge_policy(learner(value="none")), batch)["critic_loss"]
    assert losses(learner(value="policy"), batch)["value_loss"] != losses(nudge_policy(learner(value="policy")), batch)["value_loss"]


def test_the_target_is_that_of_the_equation():
    """Target of each row by hand: reward + discount * V(s'), V after its step; truncated rows count for no critic."""
    batch, one = rows(32), learner()
    flags = torch.zeros(32, dtype=torch.bool)
    terminated, truncated = flags.clone(), flags.clone()
    terminated[3], truncated[5] = True, True
    batch = replace(batch, terminated=terminated, truncated=truncated)
    before = learner()
    found = losses(one, batch)
    with torch.no_grad():
        following = one._value(batch.next_observation.features).squeeze(1)
        discount = torch.where(batch.session_end, 0.5, 0.9) * ~terminated
        target = batch.reward[:, 0] + discount * following
        q = before._critics(batch.observation.features, batch.action)
        error = ((q - target) ** 2)[:, ~truncated].mean(1).sum()
    assert found["target_mean"] == pytest.approx(target.mean().item(), abs=1e-5)
    assert found["critic_loss"] == pytest.approx(error.item(), rel=1e-5)


def test_advantage_weights_are_those_of_the_equation():
    batch, one = rows(32), learner(beta=2.0, weight_cap=1.1)
    with torch.no_grad():
        state = batch.observation.features
        advantage = one._target_critics(state, batch.action).amin(0) - one._value(state).squeeze(1)
        weight = (2.0 * advantage).exp().clamp_max(1.1)
        distance = (one.policy().centre(batch.observation) - batch.action).square()
    found = losses(one, batch)
    assert found["actor_loss"] == pytest.approx((weight * distance.sum(1)).mean().item(), rel=1e-5)
    assert found["bc_error"] == pytest.approx(distance.mean().item(), rel=1e-5)
    assert weight.max() == pytest.approx(1.1)


def test_sampling_corrections_are_honoured():
    """A weight of 2 counts as a row twice."""
    batch = rows(8)
    twice = torch.tensor([0, 0, *range(1, 8)])
    doubled = Transitions(
        batch.observation[twice],
        batch.action[twice],
        batch.reward[twice],
        batch.next_observation[twice],
        *(flag[twice] for flag in (batch.terminated, batch.truncated, batch.session_end)),
    )
    for options in ({}, {"actor_loss": "dpg"}):
        weighed = losses(learner(**options), replace(batch, weight=torch.tensor([2.0] + [1.0] * 7)))
        copied = losses(learner(**options), doubled)
        for name in ("critic_loss", "actor_loss", *(["value_loss"] if not options else [])):
            assert weighed[name] == pytest.approx(copied[name], rel=1e-4), name


@pytest.mark.parametrize("expectile", [0.5, 0.9, 0.99])
def test_values_of_two_states_reach_the_best_in_the_data(expectile):
    """State 0 earns 0 or 1 by the action and leads to state 1, which earns 0 or 2 and ends. The best in the data is V(1) = 2,
    V(0) = 1 + .9 * 2; the mean is V(1) = 1, V(0) = .5 + .9. The expectile of two equally likely values a < b is a + w (b - a)."""
    n = 16
    state = torch.arange(n) % 2
    best = (torch.arange(n) // 2) % 2
    action = torch.where(best == 1, 0.9, -0.9).unsqueeze(1).expand(n, 2)
    reward = torch.where(state == 0, 1.0, 2.0) * best
    eye, none = torch.eye(2), torch.zeros(n, dtype=torch.bool)
    batch = Transitions(
        Observation(features=eye[state]), action, reward.unsqueeze(1), Observation(features=eye[1].expand(n, 2)), state == 1, none, none
    )
    one = learner(expectile=expectile, learning_rate=5e-3, tau=0.05)
    for _ in range(450):
        one.update(batch)
    with torch.no_grad():
        value = one._value(eye).squeeze(1).tolist()
    last = 2 * expectile
    assert value[1] == pytest.approx(last, abs=0.08)
    assert value[0] == pytest.approx(expectile + 0.9 * last, abs=0.12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expectile": 1.0}, "expectile=1.0"),
        ({"tau": 0.0}, "tau=0.0"),
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"weight_cap": 0.0}, "weight_cap=0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PrefRecConfig(**options)


def test_constraints_are_refused():
    objective = Objective(Signal("click"), (Constraint(Signal("hate"), "at_most"),))
    with pytest.raises(ConfigError, match="honours no constraints"):
        PrefRec(PrefRecConfig(ActorConfig(FLAT)), Task(ActionSpec("continuous", (2,)), objective))


def test_the_public_name_is_the_loss():
    assert prefrec.preference_loss is preference_loss
