"""AURO's parts against closed forms and brute force: the unit-level checks of the method, and the quirks of its released code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.algorithms.abstraction import AbstractionConfig, bin_means, cluster_bins, distance_loss
from recrl.algorithms.auro import AURO, AUROConfig, ExplorationConfig, abstraction_loss, guarded_actions, value_bins
from recrl.algorithms.parity.auro import ShippedExplorer, shipped_abstraction_loss, shipped_shift
from recrl.algorithms.probes import linear_r2, value_correlation, value_silhouette
from recrl.algorithms.task import Task
from recrl.checks import check_policy
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.errors import ConfigError, ContractError
from recrl.core.objective import Objective, Signal
from recrl.core.torch.streams import TensorStreams
from recrl.policies.encoders import EncoderConfig
from recrl.policies.guarded import GuardedConfig, GuardedPolicy, optimistic
from recrl.policies.networks import Critics, initialise
from recrl.policies.vector import ActorConfig, VectorPolicy
from simulators.fidelity.auro import AuroConfig, AuroWorld
from simulators.fidelity.users import StandInUsers

B, D, N = 64, 5, 4


def drawn(seed: int = 0, rows: int = B, dtype: torch.dtype = torch.float64):
    """Random abstractions and values."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, D, generator=rng, dtype=dtype), torch.randn(rows, generator=rng, dtype=dtype)


def pairs(phi: torch.Tensor, labels: torch.Tensor, same: bool) -> torch.Tensor:
    """Sum of squared distances over ordered pairs of one bin, or of pairs of two."""
    total = torch.zeros((), dtype=phi.dtype)
    for i, j in itertools.product(range(len(phi)), repeat=2):
        if (labels[i] == labels[j]) == same and (same or i < j):
            total = total + (phi[i] - phi[j]).square().sum()
    return total


# ---------------------------------------------------------------- check 1: J


@given(st.integers(0, 10_000))
@settings(max_examples=3, deadline=None)
def test_the_first_term_of_j_is_the_sum_over_pairs_of_one_bin(seed):
    phi, values = drawn(seed, 24)
    labels = value_bins(values, N)
    centroids, _ = bin_means(phi, labels, N)
    within = distance_loss(phi, labels, centroids, margin=1e-12) * 24**2  # no repulsion beyond a margin of nothing
    assert torch.allclose(within, pairs(phi, labels, same=True), rtol=1e-6)


def test_the_second_term_leaves_the_spread_within_bins_out_of_the_pairs_of_two():
    """Exactly: cross pairs = (B/n)^2 sum |c_k - c_m|^2 + (n - 1) (B/n) sum |phi_i - c_k|^2."""
    phi, values = drawn(3, 24)
    labels = value_bins(values, N)
    centroids, _ = bin_means(phi, labels, N)
    apart = sum((centroids[k] - centroids[m]).square().sum() for k, m in itertools.combinations(range(N), 2))
    own = (phi - centroids[labels]).square().sum()
    assert torch.allclose(pairs(phi, labels, same=False), (24 / N) ** 2 * apart + (N - 1) * (24 / N) * own)
    loss, _ = abstraction_loss(phi, values, bins=N)
    assert torch.allclose(loss * 24**2, 2 * 24 / N * own - (24 / N) ** 2 * apart)
    # the closed form: 2/n of the variance within, less the variance of the centroids
    assert torch.allclose(loss, 2 / N * own / 24 - centroids.var(0, correction=0).sum())


@pytest.mark.parametrize("kind", ["distance", "determinant"])
def test_gradients_are_those_of_finite_differences(kind):
    phi, values = (x[:, :2] if x.ndim == 2 else x for x in drawn(1, 12))
    assert torch.autograd.gradcheck(lambda x: abstraction_loss(x, values, kind=kind)[0], phi.requires_grad_())


# ---------------------------------------------------------------- check 2: running centroids pass gradient


def by_parts(phi: torch.Tensor, values: torch.Tensor, previous: torch.Tensor, detached: bool, margin: float) -> torch.Tensor:
    """Gradient of J / B^2 at running centroids: with them held, and, unless they are detached, through the mean of each bin."""
    labels = value_bins(values, N)
    centroids = (0.9 * previous + 0.1 * bin_means(phi, labels, N)[0]).requires_grad_()
    at = phi.clone().requires_grad_()
    direct, through = torch.autograd.grad(distance_loss(at, labels, centroids, margin), (at, centroids))
    return direct if detached else direct + through[labels] / torch.bincount(labels)[labels].unsqueeze(1)


def test_the_repulsion_reaches_phi_through_running_centroids():
    phi, values = drawn(2)
    previous, _ = drawn(7, N)
    whole, none = (by_parts(phi, values, previous, False, margin) for margin in (float("inf"), 1e-9))
    at = phi.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(abstraction_loss(at, values, previous=previous)[0], at)
    assert torch.allclose(gradient, whole, atol=1e-12)
    # of the repulsion alone: what a margin of nothing takes away
    assert (whole - none).abs().max() > 1e-4
    held, held_too = (by_parts(phi, values, previous, True, margin) for margin in (float("inf"), 1e-9))
    assert torch.equal(held, held_too), "without gradient through centroids there is no repulsion"


def test_running_centroids_move_by_a_tenth_and_stay_where_a_bin_is_empty():
    phi, values = drawn(4)
    previous, _ = drawn(8, N)
    labels = torch.where(value_bins(values, N) == 2, 1, value_bins(values, N))
    mean, present = bin_means(phi, labels, N)
    _, centroids = abstraction_loss(phi, values, previous=previous, labels=labels)
    assert present.tolist() == [True, True, False, True]
    assert torch.allclose(centroids[[0, 1, 3]], (0.9 * previous + 0.1 * mean)[[0, 1, 3]])
    assert torch.equal(centroids[2], previous[2])


def test_j_has_a_bound_where_phi_or_the_margin_has_one():
    phi, values = drawn(5)
    labels = value_bins(values, N)
    pushed = torch.eye(N, D, dtype=torch.float64)[labels] * 1e6
    assert abstraction_loss(pushed, values)[0] < -1e11
    assert abstraction_loss(pushed, values, margin=2.0)[0] >= -4.0 * 6 / 16 - 1e-9
    assert abstraction_loss(torch.sign(phi), values)[0] >= -D


# ---------------------------------------------------------------- check 3: the determinant


def clustered(distance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Bins on points that far apart."""
    values = torch.arange(16.0, dtype=torch.float64)
    return torch.eye(4, D, dtype=torch.float64)[value_bins(values, N)] * distance, values


def test_the_released_determinant_is_finite_far_apart_and_not_where_centroids_coincide():
    near, far = (shipped_abstraction_loss(*clustered(distance)) for distance in (20.0, 1e4))
    assert near > 1e-6
    # not quite 0 from above: its 1e-6 stands in every entry
    assert far == pytest.approx(-0.003 * np.log1p(4e-6), rel=1e-3)
    phi, values = clustered(0.0)
    assert not torch.isfinite(shipped_abstraction_loss(phi, values))


def test_the_robust_determinant_is_finite_with_finite_gradients_where_centroids_coincide():
    phi, values = clustered(0.0)
    phi.requires_grad_()
    loss, _ = abstraction_loss(phi, values, kind="determinant")
    # eigenvalues of the all-ones matrix with eps on its diagonal: 4 + eps, and eps three times
    assert loss.item() == pytest.approx(-np.log(4.001) - 3 * np.log(1e-3), abs=1e-3)
    (gradient,) = torch.autograd.grad(loss, phi)
    assert torch.isfinite(gradient).all()
    phi, values = clustered(1e4)
    assert float(abstraction_loss(phi, values, kind="determinant")[0]) == pytest.approx(-4 * np.log(1.001), abs=1e-5)


# ---------------------------------------------------------------- check 4: bins


@given(st.integers(2, 90), st.integers(2, 7), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_bins_are_cut_by_rank(rows, bins, seed):
    _, values = drawn(seed, rows)
    labels = value_bins(values, bins)
    sizes = torch.bincount(labels, minlength=bins)
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(labels[values.argsort()], labels.sort().values)
    # a rising transform, which float64 keeps strictly so here
    assert torch.equal(value_bins(torch.exp(values / 3) * 7 - 2, bins), labels)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(value_bins(values[order], bins), labels[order])


@pytest.mark.parametrize("kind", ["distance", "determinant"])
def test_the_order_of_the_batch_does_not_matter(kind):
    phi, values = drawn(6, 30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    (a, left), (b, right) = (abstraction_loss(phi[i], values[i], kind=kind) for i in (torch.arange(30), order))
    assert torch.allclose(a, b)
    assert torch.allclose(left, right)


def test_clusters_are_found_where_there_are_some():
    centre = torch.tensor([[9.0, 0], [0, 9], [-9, 0], [0, -9]])
    truth = torch.arange(80) % 4
    labels = cluster_bins(centre[truth] + torch.randn(80, 2, generator=torch.Generator().manual_seed(0)), 4)
    assert all(len(set(labels[truth == k].tolist())) == 1 for k in range(4))
    assert len(set(labels.tolist())) == 4


# ---------------------------------------------------------------- check 5: the guard


def critics(seed: int = 0, width: int = 6, size: int = 3) -> Critics:
    net = Critics(width, size, (32, 32))
    initialise(net, seed)
    # sharper than at the start, so that steps overshoot
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.mul_(2.5)
    return net


def states(rows: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(rows, 6, generator=rng), torch.rand(rows, 3, generator=rng) * 2 - 1


@pytest.mark.parametrize("beta", [0.0, 4.66, 30.0])
def test_the_guard_never_falls_below_the_actors_own_mean_value(beta):
    """For every state, since k = 0 is a candidate; 1e-5 is float32."""
    net, (state, action) = critics(), states()
    found = guarded_actions(action, lambda a: net.each(state, a), beta=beta, step=0.3, candidates=10)
    after, before = (net(state, a).mean(0) for a in (found.action, action))
    assert (after >= before - 1e-5).all()
    assert (found.gain >= 0).all()
    assert torch.allclose(found.gain, after - before, atol=1e-5)
    assert found.action.abs().max() <= 1.0
    # it is at work: some stay, some move, and without it some would fall
    assert 0.0 < (found.chosen == 0).float().mean() < 1.0 or beta == 0.0
    unguarded = guarded_actions(action, lambda a: net.each(state, a), beta=beta, step=0.3, candidates=10, guard=False)
    assert (net(state, unguarded.action).mean(0) < before - 1e-3).any()
    assert (unguarded.chosen == 9).all()


@pytest.mark.parametrize("jitter", [0.01, 0.5])
def test_what_is_executed_is_what_the_guard_accepted(jitter):
    """Mean values of executed actions, computed anew: noise added after acceptance puts some of them below the actor's own."""
    spec = ActionSpec("continuous", (3,))
    policy, net, (state, _) = VectorPolicy(spec, ActorConfig(EncoderConfig("flat", features=6), (16,)), seed=3), critics(), states()
    explorer = GuardedPolicy.around(policy, net, ExplorationConfig(step=0.3, jitter=jitter).around(policy.config, (32, 32)))
    seen = Observation(features=state)
    for step in range(3):
        executed = explorer.act(seen, TensorStreams(0), step=step)
        own = policy.act(seen, TensorStreams(0), deterministic=True).value
        rise = (net(state, executed.value) - net(state, own)).mean(0)
        assert (rise >= -1e-5).all()
        assert torch.allclose(rise, executed.notes["guard_gain"], atol=1e-5)
        stays = executed.notes["guard_step"] == 0
        assert 0.0 < stays.float().mean() < 1.0
        assert torch.equal(executed.value[stays], own[stays]), "the actor's own action is not jittered"
        assert executed.log_prob is None
    again, sure = (explorer.act(seen, TensorStreams(0), step=2, deterministic=d).value for d in (False, True))
    assert torch.equal(again, executed.value)
    # jitter is drawn for each candidate, before one is accepted
    assert 0.2 * jitter < float((again - sure)[~stays].abs().mean())


def test_a_guarded_choice_has_no_law_and_an_unguarded_one_has():
    spec, seen = ActionSpec("continuous", (2,)), Observation(features=states(8)[0])
    options = {"encoder": EncoderConfig("flat", features=6), "hidden": (16,), "step": 0.2}
    guarded, free = (GuardedPolicy(spec, GuardedConfig(**options, guard=guard), seed=1) for guard in (True, False))
    check_policy(guarded, seen)
    check_policy(free, seen)
    with pytest.raises(ContractError, match="has no density"):
        guarded.log_prob(seen, guarded.act(seen, TensorStreams(0)).value)


def test_with_one_candidate_the_actors_gaussian_explores():
    options = {"actor": ActorConfig(EncoderConfig("flat", features=6), (16,)), "critic_hidden": (16,)}
    learner = AURO(AUROConfig(**options, explore=ExplorationConfig(candidates=1)), Task(ActionSpec("continuous", (2,))), 0)
    assert learner.collect_policy() is learner.policy()


def test_each_samples_gradient_is_its_own():
    net, (state, action) = critics(), states(40)
    whole = guarded_actions(action, lambda a: net.each(state, a), beta=4.0, step=0.05)
    for k in (0, 17):
        alone = guarded_actions(action[k : k + 1], lambda a, k=k: net.each(state[k : k + 1], a), beta=4.0, step=0.05)
        assert torch.allclose(alone.action, whole.action[k : k + 1], atol=1e-5)


def test_without_optimism_and_with_one_step_it_is_gradient_ascent_on_the_mean_value():
    net, (state, action) = critics(), states()
    inner = action * 0.8
    found = guarded_actions(inner, lambda a: net.each(state, a), beta=0.0, step=1e-3, candidates=2)
    start = inner.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(state, start).mean(0).sum(), start)
    ascended = inner + 1e-3 * gradient / gradient.norm(dim=1, keepdim=True)
    moved = found.chosen == 1
    assert moved.float().mean() > 0.95
    assert torch.allclose(found.action[moved], ascended[moved], atol=1e-6)


def test_the_optimistic_value_is_mean_plus_beta_half_the_difference():
    assert optimistic(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 2.0).tolist() == [4.0, 2.5]


def test_a_slate_does_not_depend_on_the_scale_of_the_weights():
    world = AuroWorld(AuroConfig(drift="none"), StandInUsers(n_users=30, n_items=80))
    state = world.initial_state(world.population(30), TensorStreams(0))
    weights = torch.rand(30, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    slates = [world.transition(state, weights * c, TensorStreams(0))[1].shown for c in (1.0, 0.25, 4.0)]
    assert all(torch.equal(slate, slates[0]) for slate in slates)


# ---------------------------------------------------------------- check 6: the released shift


def test_the_released_shift_has_one_norm_for_the_whole_batch():
    gradient = torch.randn(128, 7, generator=torch.Generator().manual_seed(0))
    assert float(shipped_shift(gradient).norm()) == pytest.approx(0.7746, abs=1e-3)
    assert float(shipped_shift(gradient[:1]).norm()) == pytest.approx(0.7746, abs=1e-3)


def test_the_released_noise_moves_actions_upwards_and_depends_on_the_batch():
    flat = ActorConfig(EncoderConfig("flat", features=6), hidden=(16,))
    policy, net, (state, _) = VectorPolicy(ActionSpec("continuous", (3,)), flat), critics(), states(64)
    explorer, seen = ShippedExplorer(policy, net), Observation(features=state)
    still, moved = (explorer.act(seen, TensorStreams(0), deterministic=sure).value for sure in (True, False))
    assert (moved >= still).all()
    assert 0.004 < float((moved - still).mean()) < 0.006
    assert not torch.allclose(explorer.act(seen[:8], TensorStreams(0), deterministic=True).value, still[:8], atol=1e-3)


# ---------------------------------------------------------------- check 7: discounts within and across sessions


def session_values(objective: Objective, requests: int = 4, days: tuple[float, float] = (3.0, 3.0)) -> torch.Tensor:
    """Fitted values at each request of two sessions in a row, with these days of absence after them."""
    rows = 2 * requests
    x, ends = torch.eye(rows), torch.zeros(rows, dtype=torch.bool)
    ends[[requests - 1, rows - 1]] = True
    reward = torch.zeros(rows, 1)
    reward[ends, 0] = -torch.tensor(days) / 10
    none = torch.zeros(rows, dtype=torch.bool)
    # the second session is followed by the first one again: a user who goes on for ever
    batch = Transitions(
        observation=Observation(features=x),
        action=torch.zeros(rows, 1),
        reward=reward,
        next_observation=Observation(features=x.roll(-1, 0)),
        terminated=none,
        truncated=none,
        session_end=ends,
    )
    options = AUROConfig(
        actor=ActorConfig(EncoderConfig("flat", features=rows), hidden=(8,)),
        critic_hidden=(32,),
        critic_learning_rate=1e-2,
        tau=0.2,
        target_noise=0.0,
        actor_learning_rate=0.0,
        abstraction=AbstractionConfig(size=2, hidden=(8,)),
    )
    learner = AURO(options, Task(ActionSpec("continuous", (1,)), objective), seed=0)
    for _ in range(220):
        learner.update(batch)
    return learner.values(batch.observation)


def test_rlurs_rule_without_a_future_gives_every_request_the_whole_gap():
    """Discount 1 within, 0 across: -d/10 at every request. The actor is at 0 up to its start, which the critic never saw move."""
    values = session_values(Objective(Signal("return", discount_within=1.0, discount_across=0.0)))
    assert torch.allclose(values, torch.full((8,), -0.3), atol=0.02)


def test_td3s_rule_discounts_within_the_session():
    """Discount .9 within, nothing beyond its end: -.9^(T-1-t) d/10."""
    values = session_values(Objective(Signal("return", discount_within=0.9, discount_across=0.0)))
    assert torch.allclose(values, -0.3 * 0.9 ** torch.tensor([3.0, 2, 1, 0, 3, 2, 1, 0]), atol=0.02)


def test_rlurs_rule_with_a_future_adds_the_sessions_to_come():
    """Discount 1 within, .5 across, gaps of 3 and 1 days in turn: V_1 = -.3 + .5 V_2 and V_2 = -.1 + .5 V_1."""
    values = session_values(Objective(Signal("return", discount_within=1.0, discount_across=0.5)), days=(3.0, 1.0))
    first = (-0.3 - 0.5 * 0.1) / 0.75
    assert torch.allclose(values, torch.tensor([first] * 4 + [-0.1 + 0.5 * first] * 4), atol=0.03)


# ---------------------------------------------------------------- check 8: the metric


def test_the_mean_reward_of_a_transition_is_minus_the_mean_gap_over_ten_and_the_sessions_length():
    world, streams = AuroWorld(AuroConfig(drift="none"), StandInUsers(n_users=50, n_items=60)), TensorStreams(4)
    state, rewards, gaps = world.initial_state(world.population(64), streams), [], []
    while bool(state.alive.any()):
        state, outcome = world.transition(state, torch.ones(64, 7), streams)
        rewards.append(outcome.reward[:, 1])
        gaps.append(outcome.gap_days[outcome.session_end])
    assert len(rewards) == 100
    # every session has ten requests, so this holds exactly, not just on average
    assert float(torch.cat(rewards).mean()) == pytest.approx(-float(torch.cat(gaps).mean()) / 100, rel=1e-5)


# ---------------------------------------------------------------- probes, options


def test_probes_tell_what_is_encoded_from_what_is_not():
    rng = np.random.default_rng(0)
    segment = np.arange(300) // 10
    m = rng.normal(size=30)[segment]
    told, noise = np.stack([m + 0.1 * rng.normal(size=300), rng.normal(size=300)], 1), rng.normal(size=(300, 2))
    assert linear_r2(told, m, groups=segment) > 0.95
    # a name for each segment says nothing about the others
    assert linear_r2(np.eye(30)[segment], m, groups=segment) < 0.1
    assert linear_r2(noise, m, groups=segment) < 0.1
    value = rng.normal(size=200)
    assert value_correlation(value[:, None] * [1.0, -2.0], value) == pytest.approx(1.0)
    assert abs(value_correlation(rng.normal(size=(200, 3)), value)) < 0.1
    assert value_silhouette(np.sign(value)[:, None] * 5 + np.eye(200)[:, :1], value, bins=2) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: AbstractionConfig(bins=1), "bins >= 2"),
        (lambda: AbstractionConfig(momentum=1.0), "momentum < 1"),
        (lambda: AUROConfig(explore=ExplorationConfig(candidates=0)), "candidates >= 1"),
        (lambda: AUROConfig(cloning_alpha=-1.0), "cloning_alpha >= 0"),
        (lambda: EncoderConfig(abstraction=-1), "give a width"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        options()
