"""Laws of bounded vectors and of discrete choices against closed forms, and what learners need of them: gradients, no NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from recrl.core.contracts import ActionSpec, Observation
from recrl.core.torch.streams import TensorStreams
from recrl.policies.discrete import DiscretePolicy
from recrl.policies.encoders import EncoderConfig
from recrl.policies.gaussian import LOG_SPREADS, GaussianPolicy
from recrl.policies.laws import ClippedGaussian, SquashedGaussian
from recrl.policies.vector import ActorConfig, VectorPolicy

LOW, HIGH = -2.0, 4.0
FLAT = ActorConfig(EncoderConfig("flat", features=5), hidden=(16,), exploration=0.2)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


@settings(max_examples=30)
@given(mean=st.floats(LOW, HIGH), spread=st.floats(0.05, 10.0))
def test_a_clipped_gaussian_is_a_density_and_two_point_masses(mean, spread):
    law = ClippedGaussian(column(mean), spread, LOW, HIGH)
    inside = np.linspace(LOW + 1e-9, HIGH - 1e-9, 7)
    density = ClippedGaussian(column(*[mean] * 7), spread, LOW, HIGH).log_prob(column(*inside))
    assert density.numpy() == pytest.approx(stats.norm.logpdf(inside, mean, spread), rel=1e-9)
    masses = [law.log_prob(column(a)).exp().item() for a in (LOW, HIGH)]
    assert masses == pytest.approx([stats.norm.cdf(LOW, mean, spread), stats.norm.sf(HIGH, mean, spread)], rel=1e-9)
    between = stats.norm.cdf(HIGH, mean, spread) - stats.norm.cdf(LOW, mean, spread)
    assert sum(masses) + between == pytest.approx(1.0, abs=1e-9)
    assert torch.isneginf(law.log_prob(column(LOW - 1e-6)))


def test_clipped_tails_and_their_gradients_hold_far_away():
    """A bound 2,000 spreads away: log Phi(-z) = -z^2 / 2 - log(z sqrt(2 pi)) + O(z^-2), its slope in the mean is z / spread."""
    mean = torch.tensor([[0.0]], requires_grad=True)
    law = ClippedGaussian(mean, 1e-3, -2.0, 2.0)
    log_prob = law.log_prob(torch.tensor([[2.0]]))
    log_prob.backward()
    assert log_prob.item() == pytest.approx(-2e6 - math.log(2e3 * math.sqrt(2 * math.pi)), rel=1e-6)
    assert mean.grad.item() == pytest.approx(2e3 / 1e-3, rel=1e-3)


@settings(max_examples=30)
@given(mean=st.floats(-3, 3), log_spread=st.floats(-3, 1))
def test_a_squashed_gaussian_integrates_to_its_distribution_function(mean, log_spread):
    """The density integrated up to ``a`` is Phi((atanh y - mean) / spread)."""
    law = SquashedGaussian(column(mean), column(log_spread), LOW, HIGH)

    def mass(v: float) -> float:
        a = 1.0 + 3.0 * math.tanh(v)
        return law.log_prob(column(a)).exp().item() * 3.0 / math.cosh(v) ** 2

    until = mean + 0.5
    found = integrate.quad(mass, max(-7.0, mean - 9 * math.exp(log_spread)), until, epsabs=1e-10, points=[mean])[0]
    lowest = max(-7.0, mean - 9 * math.exp(log_spread))
    expected = stats.norm.cdf((until - mean) / math.exp(log_spread)) - stats.norm.cdf((lowest - mean) / math.exp(log_spread))
    assert found == pytest.approx(expected, abs=1e-7)


@settings(max_examples=30)
@given(noise=st.floats(-4, 4), mean=st.floats(-2, 2), log_spread=st.floats(-4, 0))
def test_a_draw_has_the_density_that_log_prob_gives_it(noise, mean, log_spread):
    law = SquashedGaussian(column(mean), column(log_spread), LOW, HIGH)
    action, log_prob = law.draw(column(noise))
    assert law.log_prob(action).item() == pytest.approx(log_prob.item(), abs=1e-6)


def test_saturated_actions_stay_finite_with_finite_gradients():
    mean = torch.tensor([[30.0, -30.0]], requires_grad=True)
    log_spread = torch.zeros(1, 2, requires_grad=True)
    law = SquashedGaussian(mean, log_spread, LOW, HIGH)
    action, drawn = law.draw(torch.tensor([[1.0, -1.0]]))
    assert action.tolist() == [[HIGH, LOW]]
    # log(1 - tanh(31)^2) = 2 log 2 - 62, which float32 would lose
    assert drawn.item() == pytest.approx(2 * (-0.5 - math.log(math.sqrt(2 * math.pi)) - math.log(3.0) - 2 * math.log(2) + 62), rel=1e-5)
    (drawn + law.log_prob(torch.tensor([[HIGH, LOW]]))).sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(log_spread.grad).all()
    assert torch.isneginf(law.log_prob(torch.tensor([[HIGH + 0.1, 0.0]])))


def test_reparametrised_gradients_are_those_of_the_expectation():
    """d/d mean E[a] and d/d log spread E[a] by quadrature; 4 standard errors of 20,000 draws, false-alarm rate 1e-4."""
    mean, log_spread = torch.tensor([0.4], requires_grad=True), torch.tensor([-0.3], requires_grad=True)
    noise = TensorStreams(0).normal(torch.arange(20_000), 0, 6, (1,))
    law = SquashedGaussian(mean.expand(20_000, 1), log_spread.expand(20_000, 1), LOW, HIGH)
    action, _ = law.draw(noise)
    action.mean().backward()

    def expected(m: float, s: float) -> float:
        return integrate.quad(lambda e: (1 + 3 * math.tanh(m + math.exp(s) * e)) * stats.norm.pdf(e), -8, 8)[0]

    step = 1e-4
    by_mean = (expected(0.4 + step, -0.3) - expected(0.4 - step, -0.3)) / (2 * step)
    by_spread = (expected(0.4, -0.3 + step) - expected(0.4, -0.3 - step)) / (2 * step)
    slope = 3 * (1 - ((action - 1) / 3) ** 2)
    errors = [slope.std().item() / math.sqrt(20_000), (slope * math.exp(-0.3) * noise).std().item() / math.sqrt(20_000)]
    assert abs(mean.grad.item() - by_mean) < 4 * errors[0]
    assert abs(log_spread.grad.item() - by_spread) < 4 * errors[1]


@pytest.mark.parametrize("kind", [VectorPolicy, GaussianPolicy])
def test_policies_tell_the_law_they_draw_from(kind):
    policy = kind(ActionSpec("continuous", (3,), low=LOW, high=HIGH), FLAT)
    observation = Observation(features=torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
    drawn = policy.act(observation, TensorStreams(1))
    assert torch.equal(drawn.log_prob, policy.log_prob(observation, drawn.value))
    assert torch.equal(policy.act(observation, TensorStreams(1), deterministic=True).value, policy.centre(observation))
    if kind is VectorPolicy:
        mean = policy.centre(observation).detach()
        expected = stats.norm.logpdf(drawn.value.numpy(), mean.numpy(), 0.2 * 3.0).sum(1)
        inside = ((drawn.value > LOW) & (drawn.value < HIGH)).all(1)
        assert drawn.log_prob[inside].numpy() == pytest.approx(expected[inside.numpy()], rel=1e-4)


def test_a_gaussian_policy_starts_with_the_spread_it_is_given_and_learns_it():
    policy = GaussianPolicy(ActionSpec("continuous", (2,)), FLAT)
    observation = Observation(features=torch.randn(50, 5, generator=torch.Generator().manual_seed(0)))
    spread = policy.actor(observation).log_spread.exp()
    assert spread.median().item() == pytest.approx(0.2, rel=0.3)
    low, high = (math.exp(bound) for bound in LOG_SPREADS)
    policy.actor.body[-1].bias.data[2:] = torch.tensor([-100.0, 100.0])
    assert policy.actor(observation).log_spread.exp()[0].tolist() == pytest.approx([low, high], rel=1e-4)


def test_samples_of_a_batch_are_independent_and_carry_gradients():
    policy = GaussianPolicy(ActionSpec("continuous", (2,)), FLAT)
    one = Observation(features=torch.ones(8, 5), user=torch.zeros(8, dtype=torch.int64))
    action, log_prob = policy.sample(one, TensorStreams(0), step=3)
    assert len({tuple(row) for row in action.tolist()}) == 8
    again, _ = policy.sample(one, TensorStreams(0), step=3)
    assert torch.equal(action, again)
    assert torch.allclose(log_prob, policy.log_prob(one, action), atol=1e-4)
    (action.sum() + log_prob.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in policy.parameters())


def test_discrete_choices_by_hand():
    policy = DiscretePolicy(ActionSpec("discrete", choices=3), FLAT)
    with torch.no_grad():
        policy.body[-1].weight.zero_()
        policy.body[-1].bias.copy_(torch.tensor([1.0, 2.0, 5.0]).log())
    observation = Observation(features=torch.zeros(5, 5))
    assert policy.log_prob(observation, torch.tensor([0, 1, 2, 3, -1])).exp().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8, 0, 0])
    assert policy.act(observation, TensorStreams(0), deterministic=True).value.tolist() == [2] * 5
