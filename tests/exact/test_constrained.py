"""Baselines and likelihoods of constrained learners, the contract with constraints, and options that are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from recrl.algorithms.joint_critic import JointCritic, JointCriticConfig
from recrl.algorithms.likelihood import Likelihood
from recrl.algorithms.pareto import Pareto, ParetoConfig, min_norm_weights
from recrl.algorithms.rcpo import RCPO, RCPOConfig
from recrl.algorithms.task import Task
from recrl.algorithms.tscac import TSCAC, TSCACConfig
from recrl.algorithms.tscac_ddpg import TSCACDDPG, TSCACDDPGConfig
from recrl.checks import check_algorithm, check_no_sync
from recrl.core.errors import ConfigError
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.torch.views import transitions_to
from recrl.policies.encoders import EncoderConfig
from recrl.policies.items import ItemPolicy, SoftmaxScores, item_spec
from recrl.policies.vector import ActorConfig
from tests.support import small

THREE = Objective(Signal("long_view"), (Constraint.parse("like>=0.1"), Constraint.parse("click<=0.5@0.5")))
TINY = ActorConfig(EncoderConfig("history", history=4), hidden=(8,))


@given(st.integers(1, 5), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_min_norm_weights_are_the_least(count, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 4)) * rng.uniform(0.1, 3.0, (count, 1))
    gram = rows @ rows.T
    found = min_norm_weights(torch.from_numpy(gram)).numpy()
    best = minimize(
        lambda w: w @ gram @ w,
        np.full(count, 1 / count),
        jac=lambda w: 2 * gram @ w,
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    assert found @ gram @ found <= best.fun + 1e-4 * np.diag(gram).max()


def test_min_norm_direction_hurts_nobody():
    rows = torch.tensor([[1.0, 0.2, 0.0], [-0.5, 1.0, 0.3], [0.2, -0.4, 2.0]])
    way = min_norm_weights(rows @ rows.T) @ rows
    assert (rows @ way > 0).all()


def test_multipliers_move_against_the_slack():
    task, rows = small.task("item", THREE), small.three_rewards("item")
    learner = RCPO(RCPOConfig(actor=TINY, critic_hidden=(8,), stage_one_updates=0, multiplier_learning_rate=0.1), task)
    before = learner.update(rows).metrics
    after = learner.update(rows).metrics
    for name, bound in (("like", 0.1), ("click", 0.5)):
        moved = float(after[f"lambda_{name}"] - before[f"lambda_{name}"])
        assert moved == pytest.approx(-0.1 * float(before[f"slack_{name}"]) / bound, abs=1e-5)


def test_learned_multipliers_need_bounds():
    objective = Objective(Signal("long_view"), (Constraint.parse("like"),))
    with pytest.raises(ConfigError, match="need a bound"):
        RCPO(RCPOConfig(multiplier_learning_rate=0.1), small.task("item", objective))


def test_sampled_softmax_is_unbiased_in_the_normaliser():
    """The mean of ``1 / pi(a|s)`` over 400 draws of 4 items is exact: within 5 standard errors in ten rows, false-alarm rate 1e-5."""
    task = small.task("item")
    counts = torch.arange(small.N_ITEMS).float().log1p()
    scores = SoftmaxScores(TINY, task.item_vectors, counts, seed=2)
    policy, rows = ItemPolicy(scores, item_spec(small.N_ITEMS)), small.three_rewards("item")
    exact = policy.log_prob(rows.observation, rows.action).detach()
    sampled = Likelihood(4, counts, 0, "cpu")
    with torch.no_grad():
        found = []
        for step in range(400):
            state, drawn = sampled.begin(rows, scores.encoder, step)
            found.append(sampled.log_prob(policy, rows, state, drawn))
        whole = Likelihood(0, counts, 0, "cpu")
        same = whole.log_prob(policy, rows, *whole.begin(rows, scores.encoder, 0))
    inverse = torch.stack(found).neg().exp()
    error = inverse.std(0) / 20
    assert torch.allclose(same, exact, atol=1e-5)
    assert ((inverse.mean(0) - exact.neg().exp()).abs() < 5 * error + 1e-5).all()


@pytest.mark.parametrize(
    ("kind", "learner", "options"),
    [
        ("item", TSCAC, {}),
        ("item", TSCAC, {"sampled_items": 4}),
        ("continuous", TSCAC, {}),
        ("continuous", TSCACDDPG, {}),
        ("embedding", TSCACDDPG, {"joint_stage_one": True}),
        ("item", RCPO, {"critics": "separate", "multiplier_learning_rate": 0.1}),
        ("item", Pareto, {}),
        ("item", JointCritic, {"sampled_items": 4}),
    ],
    ids=lambda x: x.__name__ if isinstance(x, type) else None,
)
def test_contracts_with_constraints(kind, learner, options):
    """The suite of the contract and the wait for the device, with two constraints, across the change of stage."""
    config, rows = learner.config_type(actor=TINY, critic_hidden=(8,), stage_one_updates=4, **options), small.three_rewards(kind)
    check_algorithm(lambda seed: learner(config, small.task(kind, THREE), seed), rows)

    def build(device: str):
        one, data = (
            learner(replace(config, stage_one_updates=2), replace(small.task(kind, THREE), device=device)),
            transitions_to(rows, device),
        )
        return lambda: one.update(data)

    check_no_sync(build, learner.name)


def test_rewards_of_another_objective_are_refused():
    rows = replace(small.three_rewards("item"), reward=torch.zeros(10, 1))
    for learner in (
        TSCAC(TSCACConfig(actor=TINY), small.task("item", THREE)),
        JointCritic(JointCriticConfig(actor=TINY), small.task("item", THREE)),
    ):
        with pytest.raises(ConfigError, match="1 rewards, the objective 3 signals"):
            learner.update(rows)


@pytest.mark.parametrize(
    "build",
    [
        lambda task: TSCAC(TSCACConfig(multipliers=(1.0, 2.0, 3.0)), task),
        lambda task: TSCACConfig(multipliers=(-1.0,)),
        lambda task: TSCACConfig(cloning_share=1.0),
        lambda task: TSCACConfig(ratio_clip=0.0),
        lambda task: TSCACConfig(stage_one_updates=-1),
        lambda task: TSCACDDPG(TSCACDDPGConfig(), task),
        lambda task: TSCACDDPGConfig(bandwidth=0.0),
        lambda task: JointCritic(JointCriticConfig(weights=(1.0,) * 3), task),
        lambda task: Pareto(ParetoConfig(sampled_items=-1), task),
        lambda task: TSCAC(TSCACConfig(), Task(task.action_spec, THREE)),
    ],
)
def test_bad_options(build):
    with pytest.raises(ConfigError):
        build(small.task("item", THREE))


@pytest.mark.parametrize(
    ("text", "name", "direction", "bound", "discount"),
    [
        ("like>=0.2", "like", "at_least", 0.2, 0.99),
        ("hate <= 1e-3 @0.9", "hate", "at_most", 1e-3, 0.9),
        ("hate", "hate", "at_most", None, 0.99),
        ("watch_seconds@0", "watch_seconds", "at_least", None, 0.0),
    ],
)
def test_constraints_are_read(text, name, direction, bound, discount):
    found = Constraint.parse(text)
    assert (found.signal.name, found.direction, found.bound) == (name, direction, bound)
    assert found.signal.discount_within == found.signal.discount_across == discount
    assert found.gain == (1.0 if direction == "at_least" else -1.0)


@pytest.mark.parametrize("text", ["like=0.2", "like>=", "like>=x", "", "like>=0.2@2", "like>=1-2"])
def test_what_is_no_constraint_is_refused(text):
    with pytest.raises(ConfigError):
        Constraint.parse(text)


def test_an_objective_with_constraints_and_one_response_twice():
    objective = Objective(Signal("long_view")).protecting(("like>=0.2", "hate"), 0.9)
    assert [s.name for s in objective.signals] == ["long_view", "like", "hate"]
    with pytest.raises(ConfigError, match="each signal may appear once"):
        Objective(Signal("like")).protecting(("like>=0.2",))
