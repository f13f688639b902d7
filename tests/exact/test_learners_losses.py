"""The losses of the actor-critic learners against formulas written out, on tiny batches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution, kl_divergence

from recrl.algorithms import REGISTRY
from recrl.algorithms.awac import advantage_softmax
from recrl.algorithms.iql import expectile_loss
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.errors import ConfigError
from recrl.core.objective import Constraint, Objective, Signal
from recrl.policies.encoders import EncoderConfig
from recrl.policies.networks import Critics, StateValue, initialise
from recrl.policies.vector import ActorConfig

LEARNERS = ("ddpg", "td3", "sac", "awac", "iql", "cql", "bcq")
LOW, HIGH, HALF, CENTRE = -2.0, 3.0, 2.5, 0.5
ROWS, SIZE = 6, 2


def batch(**changes) -> Transitions:
    """Six rows, none of them an end of anything."""
    rng = torch.Generator().manual_seed(0)
    features, then, action = (torch.rand(ROWS, n, generator=rng) for n in (3, 3, SIZE))
    none = torch.zeros(ROWS, dtype=torch.bool)
    reward = torch.randn(ROWS, 1, generator=rng)
    made = Transitions(Observation(features=features), LOW + 2 * HALF * action, reward, Observation(features=then), none, none, none)
    return replace(made, **changes)


def learner(name: str, *, within: float = 0.9, across: float = 0.5, spec: ActionSpec | None = None, **options):
    """A small learner that does not learn, unless it is given learning rates."""
    kind = REGISTRY[name].config_type
    actor = ActorConfig(EncoderConfig("flat", features=3), (8,), exploration=0.4)
    rates = {f.name: 0.0 for f in vars(kind)["__dataclass_fields__"].values() if f.name.endswith("learning_rate")}
    task = Task(spec or ActionSpec("continuous", (SIZE,), LOW, HIGH), Objective(Signal("reward", 2.0, within, across)))
    return REGISTRY[name](kind(**{**rates, "actor": actor, "critic_hidden": (8,), **options}), task, seed=3)


def numbers(update) -> dict[str, float]:
    return {name: float(value) for name, value in update.metrics.items()}


def squared_errors(one, rows: Transitions, target: torch.Tensor) -> float:
    """``sum_e mean (Q_e - y)^2``."""
    with torch.no_grad():
        return float(((one._critics(rows.observation.features, rows.action) - target) ** 2).mean(1).sum())


# networks


def test_several_actions_a_state_are_valued_as_one_by_one():
    critics = Critics(3, SIZE, (8, 5))
    initialise(critics, 0)
    state, actions = torch.rand(4, 3), torch.rand(4, 7, SIZE)
    expected = torch.stack([critics(state, actions[:, k]) for k in range(7)], dim=2)
    assert torch.allclose(critics.each(state, actions), expected, atol=1e-6)


def test_a_state_value_is_a_network_of_the_state_alone():
    value = StateValue(3, (8,))
    initialise(value, 0)
    state, (first, last) = torch.rand(4, 3), (value.critics.layers[0], value.critics.last)
    hidden = torch.relu(state @ first.weight[0] + first.bias[0])
    assert torch.allclose(value(state), (hidden @ last.weight[0] + last.bias[0]).squeeze(1), atol=1e-6)


# what all share


@pytest.mark.parametrize("name", LEARNERS)
def test_discounts_within_and_across_sessions_and_none_after_the_end(name):
    """``mean y = r + g X`` with one X: the same for every g."""
    mean, every = 2.0 * float(batch().reward.mean()), torch.ones(ROWS, dtype=torch.bool)
    found = {
        key: numbers(learner(name).update(batch(**change)))["target_mean"] - mean
        for key, change in {"within": {}, "across": {"session_end": every}, "ended": {"terminated": every}}.items()
    }
    assert found["ended"] == pytest.approx(0.0, abs=1e-6)
    assert found["across"] / found["within"] == pytest.approx(0.5 / 0.9, rel=1e-4)


@pytest.mark.parametrize("name", LEARNERS)
def test_critics_do_not_learn_from_rows_whose_next_state_is_unknown(name):
    cut = torch.arange(ROWS) == 2
    other = batch(truncated=cut, reward=batch().reward + 100.0 * cut.unsqueeze(1))
    known = numbers(learner(name).update(batch(truncated=cut)))["critic_loss"]
    assert numbers(learner(name).update(other))["critic_loss"] == pytest.approx(known, rel=1e-5)
    ended = replace(other, terminated=cut)
    assert numbers(learner(name).update(ended))["critic_loss"] > known + 100.0


@pytest.mark.parametrize("name", LEARNERS)
def test_a_row_of_weight_zero_counts_as_absent(name):
    weighted = batch(weight=torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 0.0]))
    few = replace(batch(), **{part: getattr(batch(), part)[:4] for part in ("observation", "action", "reward", "next_observation")})
    few = replace(few, **{part: getattr(batch(), part)[:4] for part in ("terminated", "truncated", "session_end")})
    ours, theirs = numbers(learner(name).update(weighted)), numbers(learner(name).update(few))
    losses = {"critic_loss", "value_loss", "generator_loss", *(["actor_loss"] if name in ("awac", "iql") else [])}
    for loss in losses & set(ours):
        assert ours[loss] == pytest.approx(theirs[loss], rel=1e-4)


@pytest.mark.parametrize("name", LEARNERS)
def test_tasks_that_are_not_theirs_are_refused(name):
    with pytest.raises(ConfigError, match="learns vector actions"):
        learner(name, spec=ActionSpec("discrete", choices=3))
    constrained = Objective(Signal("click"), (Constraint(Signal("hate"), "at_most", 0.01),))
    with pytest.raises(ConfigError, match="honours no constraints"):
        REGISTRY[name](learner(name).config, Task(ActionSpec("continuous", (1,)), constrained))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddpg", {"tau": 0.0}, "tau=0.0"),
        ("sac", {"temperature": 0.0}, "temperature=0.0"),
        ("awac", {"samples": 0}, "samples=0"),
        ("iql", {"expectile": 1.5}, "expectile=1.5"),
        ("cql", {"samples": 0}, "samples=0"),
        ("bcq", {"pessimism": 2.0}, "pessimism=2.0"),
        ("bcq", {"candidates": 0}, "candidates=0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        REGISTRY[name].config_type(**options)


# one by one


def test_ddpg():
    one, rows = learner("ddpg"), batch()
    found = numbers(one.update(rows))
    critic, state, then = one._critic, rows.observation.features, rows.next_observation.features
    with torch.no_grad():
        target = 2.0 * rows.reward[:, 0] + 0.9 * critic(then, one.policy().centre(rows.next_observation))[0]
        loss = ((critic(state, rows.action)[0] - target) ** 2).mean()
        value = critic(state, one.policy().centre(rows.observation)).mean()
    assert found["critic_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found["actor_loss"] == pytest.approx(-float(value), rel=1e-5)


def law_of_scaled_actions(one, observation) -> TransformedDistribution:
    """The law of (a - centre) / half, by torch's own transforms."""
    law = one.policy().actor(observation)
    return TransformedDistribution(Normal(law.mean, law.log_spread.exp()), [TanhTransform(cache_size=1)])


@pytest.mark.parametrize("backup_entropy", [True, False])
def test_sac(backup_entropy):
    one, rows, alpha = learner("sac", temperature=0.3, backup_entropy=backup_entropy), batch(), 0.3
    noise = one._noise(ROWS, 1)
    found = numbers(one.update(rows))
    with torch.no_grad():
        scaled, log_prob = [], []
        for k, observation in enumerate((rows.next_observation, rows.observation)):
            law = law_of_scaled_actions(one, observation)
            scaled.append(torch.tanh(law.base_dist.mean + law.base_dist.stddev * noise[:, k]))
            log_prob.append(law.log_prob(scaled[-1]).sum(1))
        entropy = alpha * log_prob[0] if backup_entropy else 0.0
        then = one._critics(rows.next_observation.features, CENTRE + HALF * scaled[0]).amin(0) - entropy
        expected = squared_errors(one, rows, 2.0 * rows.reward[:, 0] + 0.9 * then)
        value = one._critics(rows.observation.features, CENTRE + HALF * scaled[1]).amin(0)
    assert found["critic_loss"] == pytest.approx(expected, rel=1e-4)
    assert found["entropy"] == pytest.approx(-float(log_prob[1].mean()), abs=1e-4)
    assert found["actor_loss"] == pytest.approx(float((alpha * log_prob[1] - value).mean()), abs=1e-4)


@pytest.mark.parametrize(("aim", "moves"), [(-5.0, -1.0), (5.0, 1.0)])
def test_the_temperature_falls_where_entropy_is_plenty_and_rises_where_it_is_scarce(aim, moves):
    """Adam's first step has the length of its learning rate, in the logarithm."""
    one = learner("sac", entropy=aim, temperature_learning_rate=0.01)
    one.update(batch())
    assert math.log(numbers(one.update(batch()))["temperature"]) == pytest.approx(moves * 0.01, rel=1e-3)


def test_entropy_does_not_depend_on_the_unit_of_actions():
    narrow, wide = (learner("sac", spec=ActionSpec("continuous", (SIZE,), -reach, reach)) for reach in (1.0, 100.0))
    assert numbers(narrow.update(batch()))["entropy"] == pytest.approx(numbers(wide.update(batch()))["entropy"], abs=1e-4)


def test_the_penalty_of_cql_is_the_log_integral_over_the_actions_less_the_logged_value():
    """By quadrature over one component. The policy is wide, so that the weights of its samples are tame: log Z errs by under 0.01."""
    actor = ActorConfig(EncoderConfig("flat", features=3), (8,), exploration=1.0)
    one, rows = learner("cql", spec=ActionSpec("continuous", (1,), LOW, HIGH), actor=actor, samples=4_000), batch()
    rows = replace(rows, action=rows.action[:, :1])
    found = numbers(one.update(rows))
    grid = LOW + (torch.arange(2_000) + 0.5) * (2 * HALF / 2_000)
    with torch.no_grad():
        over = one._critics.each(rows.observation.features, grid[:, None].expand(ROWS, -1, 1))
        mass = torch.logsumexp(over, dim=2) + math.log(2 * HALF / 2_000)
        expected = (mass - one._critics(rows.observation.features, rows.action)).mean(1).sum()
    assert found["penalty"] == pytest.approx(float(expected), abs=0.02)


def test_cql_adds_its_penalty_to_the_loss_of_sac():
    plain = numbers(learner("sac", backup_entropy=False).update(batch()))
    found = numbers(learner("cql", conservative_weight=3.0).update(batch()))
    assert found["critic_loss"] == pytest.approx(plain["critic_loss"] + 3.0 * found["penalty"], rel=1e-5)


def test_cql_lowers_what_the_log_does_not_show():
    """Its samples reach everywhere: after some steps of the penalty alone, logged actions are worth more than others."""
    one = learner("cql", critic_learning_rate=3e-2, conservative_weight=100.0)
    first, *_, last = (numbers(one.update(batch()))["penalty"] for _ in range(40))
    assert last < first - 1.0


def test_awac():
    one, rows, temperature = learner("awac", temperature=0.7, samples=3), batch(), 0.7
    noise, critics, policy = one._noise(ROWS, 1), one._critics, one.policy()
    found = numbers(one.update(rows))
    state, then = rows.observation.features, rows.next_observation.features
    with torch.no_grad():
        centre, spread = policy.centre(rows.observation), 0.4 * HALF
        next_action = (policy.centre(rows.next_observation) + spread * noise[:, 0]).clamp(LOW, HIGH)
        target = 2.0 * rows.reward[:, 0] + 0.9 * critics(then, next_action).amin(0)
        own = torch.stack([critics(state, (centre + spread * noise[:, k]).clamp(LOW, HIGH)).amin(0) for k in (1, 2, 3)]).mean(0)
        advantage = critics(state, rows.action).amin(0) - own
        weight = (advantage / temperature).exp()
        expected = -(weight / weight.sum() * policy.log_prob(rows.observation, rows.action)).sum()
    assert found["critic_loss"] == pytest.approx(squared_errors(one, rows, target), rel=1e-5)
    assert found["actor_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert found["spread"] == pytest.approx(spread, rel=1e-5)


def test_weights_of_awac_are_exponential_in_the_advantage_and_proportional_to_the_sampling_weight():
    advantage, sampling = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 3.0, 0.5])
    by_hand = sampling * (advantage / 2.0).exp()
    assert torch.allclose(advantage_softmax(advantage, 2.0, sampling), by_hand / by_hand.sum())


def test_iql():
    one, rows = learner("iql", expectile=0.8, inverse_temperature=2.0, largest_weight=0.5), batch()
    found = numbers(one.update(rows))
    state, then = rows.observation.features, rows.next_observation.features
    with torch.no_grad():
        difference = one._critics(state, rows.action).amin(0) - one._value(state)
        target = 2.0 * rows.reward[:, 0] + 0.9 * one._value(then)
        weight = (2.0 * difference).exp().clamp_max(0.5)
        likelihood = one.policy().log_prob(rows.observation, rows.action)
    by_hand = [(0.8 if u > 0 else 0.2) * u * u for u in difference.tolist()]
    assert found["value_loss"] == pytest.approx(sum(by_hand) / ROWS, rel=1e-5)
    assert found["critic_loss"] == pytest.approx(squared_errors(one, rows, target), rel=1e-5)
    assert found["actor_loss"] == pytest.approx(-float((weight * likelihood).mean()), rel=1e-5)
    assert (weight == 0.5).any(), "the cap is met"
    assert (weight < 0.5).any()


@pytest.mark.parametrize("expectile", [0.3, 0.5, 0.9])
def test_the_expectile_of_a_coin_is_its_name(expectile):
    """``V`` with least loss over {0, 1} solves t (1 - V) = (1 - t) V: V = t."""
    value = torch.tensor(expectile, requires_grad=True)
    (gradient,) = torch.autograd.grad(expectile_loss(torch.tensor([0.0, 1.0]) - value, expectile).sum(), value)
    assert float(gradient) == pytest.approx(0.0, abs=1e-6)
    (gradient,) = torch.autograd.grad(expectile_loss(torch.tensor([0.0, 1.0]) - value - 0.1, expectile).sum(), value)
    assert float(gradient) == pytest.approx(2 * (expectile * (-1) * (1 - expectile - 0.1) + (1 - expectile) * (expectile + 0.1)), abs=1e-6)


@pytest.mark.parametrize("name", ["awac", "iql"])
def test_without_advantages_they_clone(name):
    flat = {"awac": {"temperature": 1e9}, "iql": {"inverse_temperature": 0.0}}[name]
    one, rows = learner(name, **flat), batch()
    found = numbers(one.update(rows))["actor_loss"]
    assert found == pytest.approx(-float(one.policy().log_prob(rows.observation, rows.action).detach().mean()), rel=1e-4)


@pytest.mark.parametrize("name", ["awac", "iql"])
def test_a_logged_action_beyond_the_bounds_is_one_at_the_bound(name):
    beyond, at = batch(action=torch.full((ROWS, SIZE), HIGH + 1.0)), batch(action=torch.full((ROWS, SIZE), HIGH))
    found = [
        numbers(learner(name, **{"iql": {"inverse_temperature": 0.0}}.get(name, {"temperature": 1e9})).update(b)) for b in (beyond, at)
    ]
    assert found[0]["actor_loss"] == pytest.approx(found[1]["actor_loss"], rel=1e-4)
    assert math.isfinite(found[0]["actor_loss"])


def test_bcq():
    one, rows, half = learner("bcq", candidates=4, perturbation=0.2, pessimism=0.6), batch(), torch.tensor(HALF)
    actor, noise = one.policy().actor, one._noise(ROWS, 1)
    found = numbers(one.update(rows))
    state, then = rows.observation.features, rows.next_observation.features
    with torch.no_grad():
        scaled = (rows.action - CENTRE) / half
        mean, log_spread = one._recognition(torch.cat([state, scaled], 1)).chunk(2, 1)
        decoded = actor.decode(state, mean + log_spread.exp() * noise[:, 0])
        choices = []
        for k in range(4):
            raw = actor.decode(then, noise[:, 2 + k].clamp(-0.5, 0.5))
            moved = (raw + 0.2 * half * torch.tanh(actor.perturbation(torch.cat([then, raw], 1)))).clamp(LOW, HIGH)
            values = actor.critics(then, moved)
            choices.append(0.6 * values.amin(0) + 0.4 * values.amax(0))
        target = 2.0 * rows.reward[:, 0] + 0.9 * torch.stack(choices).amax(0)
        loss = ((actor.critics(state, rows.action) - target) ** 2).mean(1).sum()
        kl = kl_divergence(Normal(mean, log_spread.exp()), Normal(0.0, 1.0)).mean()
    assert found["kl"] == pytest.approx(float(kl), rel=1e-4)
    assert found["reconstruction"] == pytest.approx(float((((decoded - rows.action) / half) ** 2).mean()), rel=1e-4)
    assert found["generator_loss"] == pytest.approx(found["reconstruction"] + 0.5 * found["kl"], rel=1e-5)
    assert found["critic_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_bcq_moves_proposals_no_further_than_it_may_and_takes_the_best():
    one, rows = learner("bcq", candidates=5, perturbation=0.1), batch()
    actor, state = one.policy().actor, rows.observation.features
    with torch.no_grad():
        for parameter in actor.perturbation.parameters():
            parameter.mul_(50.0)  # drives tanh to its bounds
        raw = [actor.decode(state, latent.expand(ROWS, -1)) for latent in actor.latents]
        moved = [actor.perturb(state, a, actor.perturbation) for a in raw]
        shift = (torch.stack(moved) - torch.stack(raw)).abs()
        values = torch.stack([actor.critics.first(state, a) for a in moved])
        best = torch.stack(moved).take_along_dim(values.argmax(0)[None, :, None], 0)[0]
    assert shift.max() <= 0.1 * HALF + 1e-6
    assert shift.max() > 0.09 * HALF
    assert torch.allclose(one.policy().centre(rows.observation), best, atol=1e-6)
    assert torch.stack(moved).amax() <= HIGH
    assert torch.stack(moved).amin() >= LOW
