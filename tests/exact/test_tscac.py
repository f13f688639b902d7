"""TSCAC against its closed form, a linear program, and hand-worked numbers; what may touch what in an update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import offline_eval
from recrl.algorithms.actor_critic import ActorCriticConfig, Look, MultiCritic
from recrl.algorithms.joint_critic import JointCritic, JointCriticConfig
from recrl.algorithms.parity import tscac as quirks
from recrl.algorithms.rcpo import RCPO, RCPOConfig
from recrl.algorithms.tscac import TSCAC, TSCACConfig, closed_form_policy, projection_weights
from recrl.algorithms.tscac_ddpg import TSCACDDPG, Stage, TSCACDDPGConfig, closeness_gate
from recrl.core.errors import ConfigError
from recrl.core.objective import Constraint, Objective, Signal
from recrl.policies.encoders import EncoderConfig
from recrl.policies.items import ItemPolicy
from recrl.policies.vector import ActorConfig, VectorPolicy
from tests.support import small
from tests.support.cmdp import CMDP

AUX = np.log([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
GAIN = np.array([1.0, 0.0, -1.0])
THREE = Objective(Signal("long_view"), (Constraint.parse("like>=0.1"), Constraint.parse("click<=0.5@0.5")))
TINY = ActorConfig(EncoderConfig("history", history=4), hidden=(8,))


# ---------------------------------------------------------------- B: the published evaluation


@pytest.mark.parametrize(("chosen", "expected"), [((50, 50, 50), 2.106507), ((0, 50, 100), 7 / 3)])
def test_capped_ncis_of_the_gaussian_surrogate(chosen, expected):
    logged, reward = torch.tensor([0.0, 50.0, 100.0]), np.array([1.0, 2.0, 4.0])
    target = quirks.surrogate_log_probs(logged, torch.tensor(chosen, dtype=torch.float32)).double().numpy()
    behaviour = quirks.surrogate_log_probs(logged, logged).double().numpy()
    found = offline_eval.ncis(target, behaviour, reward, cluster=np.arange(3), cap=10.0)
    assert found.value == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------- C, D: the closed form


@pytest.mark.parametrize(
    ("lam", "expected"),
    [(5.0, (0.413052, 0.417859, 0.169089)), (0.5, (0.676147, 0.278100, 0.045753)), (0.1, (0.992501, 0.007477, 0.000023))],
)
def test_closed_form_numbers(lam, expected):
    assert np.allclose(closed_form_policy(AUX, GAIN, lam), expected, atol=1e-6)
    assert np.allclose(closed_form_policy(AUX, GAIN, (lam, lam)), expected, atol=1e-6)


def test_closed_form_solves_its_problem():
    """No policy on the simplex has a higher ``E[A] - sum lam_i KL(pi || pi_i)``: a general optimiser finds the same."""
    lam = np.array([0.7, 0.2])

    def loss(logits):
        p = np.exp(logits - logits.max())
        p /= p.sum()
        return -(p @ GAIN - sum(x * (p @ (np.log(p) - aux)) for x, aux in zip(lam, AUX, strict=True)))

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    p = np.exp(best - best.max())
    assert np.allclose(closed_form_policy(AUX, GAIN, tuple(lam)), p / p.sum(), atol=1e-5)


@pytest.mark.parametrize("sampling", [(1 / 3, 1 / 3, 1 / 3), (0.8, 0.15, 0.05), (0.02, 0.08, 0.9)])
@pytest.mark.parametrize("lam", [5.0, 0.5, 0.1])
def test_projection_reaches_the_closed_form_from_any_sampling_policy(sampling, lam):
    """The gradient of stage two in exact expectation: weights of mean 1 under the sampling policy, which stands in their denominator."""
    beta, aux, gain = torch.tensor(sampling).double(), torch.tensor(AUX), torch.tensor(GAIN)
    weight = projection_weights(aux.mean(0), beta.log(), gain, 2 * lam, clip=float("inf"))
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    size = float((beta * weight).sum())
    for _ in range(1_500):
        loss = -(beta * weight * torch.log_softmax(logits, 0)).sum()
        logits.data -= 4.0 / size * torch.autograd.grad(loss, logits)[0]
    found = torch.softmax(logits.detach(), 0)
    assert 0.5 * (found - closed_form_policy(aux, gain, lam)).abs().sum() < 1e-3


def laws(count: int):
    """Log-probabilities (count, 4), every action possible."""
    return st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=count, max_size=count).map(
        lambda rows: torch.log_softmax(torch.tensor(rows, dtype=torch.float64), 1)
    )


GAINS = st.lists(st.floats(-2, 2), min_size=4, max_size=4).map(lambda x: torch.tensor(x, dtype=torch.float64))


@given(laws(3), GAINS, st.floats(0.05, 5), st.floats(1.01, 20))
@settings(max_examples=60, deadline=None)
def test_more_lambda_means_less_gain_and_more_closeness(aux, gain, lam, factor):
    mean = torch.log_softmax(aux.mean(0), 0)

    def at(x):
        p = closed_form_policy(aux, gain, x)
        return float(p @ gain), float(p @ (p.log() - mean))

    (little_gain, little_far), (much_gain, much_far) = at(lam), at(lam * factor)
    assert much_gain <= little_gain + 1e-9
    assert much_far <= little_far + 1e-9


@given(laws(2), GAINS)
@settings(max_examples=40, deadline=None)
def test_limits(aux, gain):
    mean = torch.softmax(aux.mean(0), 0)
    assert torch.allclose(closed_form_policy(aux, gain, float("inf")), mean)
    assert torch.allclose(closed_form_policy(aux, gain, 1e9), mean, atol=1e-6)
    top = gain.topk(2).values
    if top[0] - top[1] > 1e-2:
        assert closed_form_policy(aux, gain, 1e-5).argmax() == gain.argmax()
    assert torch.allclose(closed_form_policy(aux[:1], torch.zeros(4), 0.3), aux[0].exp())


def test_an_action_that_one_auxiliary_rules_out_is_vetoed_unless_it_has_no_say():
    aux = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]).log()
    assert closed_form_policy(aux, torch.tensor([0.0, 0.0, 9.0]), 1.0)[2] == 0
    assert torch.allclose(closed_form_policy(aux, torch.zeros(3), (0.0, 1.0)), aux[1].exp())


@pytest.mark.parametrize("lam", [0.0, -1.0, (1.0, 2.0, 3.0), (0.0, 0.0)])
def test_bad_multipliers(lam):
    with pytest.raises(ConfigError):
        closed_form_policy(AUX, GAIN, lam)


# ---------------------------------------------------------------- the linear program


def iterated(cmdp: CMDP, aux: np.ndarray, lam: float, rounds: int = 60) -> np.ndarray:
    """Stage two in exact expectation: the closed form of the policy's own advantages, again and again (a part of the way each time)."""
    policy = aux.copy()
    for _ in range(rounds):
        gain = torch.from_numpy(cmdp.values(policy, 0)[1])
        policy = 0.5 * policy + 0.5 * closed_form_policy(torch.from_numpy(np.log(aux))[None], gain, lam).numpy()
    return policy


def auxiliary(cmdp: CMDP) -> np.ndarray:
    """What stage one seeks, of full support: the best policy for the protected response, softened."""
    _, best = cmdp.optimum(response=1)
    return 0.97 * best + 0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lambda_walks_between_the_auxiliary_and_the_unconstrained_optimum(seed):
    """Values along lambda beside the linear program over visits: the main response falls, none beats the program."""
    cmdp = CMDP(seed)
    aux, (free, greedy) = auxiliary(cmdp), cmdp.optimum()
    earned = np.array([cmdp.earned(iterated(cmdp, aux, lam)) for lam in (1e-3, 0.03, 0.1, 0.3, 1.0, 100.0)])
    assert (np.diff(earned[:, 0]) < 1e-6).all(), "the main response falls in lambda"
    assert earned[0, 0] == pytest.approx(free, abs=1e-3)
    assert np.allclose(earned[-1], cmdp.earned(aux), atol=2e-2)
    assert earned[-1, 1] > earned[0, 1] == pytest.approx(cmdp.earned(greedy)[1], abs=1e-2)
    for main, protected in earned:
        best, _ = cmdp.optimum(least=protected - 1e-9)
        assert main <= best + 1e-6, "no policy earns more under the same bound"
    # some lambda comes near the frontier: within a tenth of what the bound leaves to gain
    middle = earned[2]
    worst = cmdp.earned(aux)[0]
    assert middle[0] > worst
    assert cmdp.optimum(least=middle[1])[0] - middle[0] < 0.5 * (free - worst)


# ---------------------------------------------------------------- E: shapes and gradients


def critic(objective: Objective = THREE) -> MultiCritic:
    return MultiCritic(small.task("item", objective), ActorCriticConfig(actor=TINY, critic_hidden=(8,)), objective.signals, seed=1)


def look(rows, reward: torch.Tensor) -> Look:
    return Look(rows, None, None, reward)


def test_targets_have_one_row_a_response_and_end_where_the_user_does():
    rows = small.three_rewards("item")
    rows = replace(rows, terminated=torch.arange(10) == 4, session_end=torch.arange(10) == 5)
    one, reward = critic(), rows.reward.T.contiguous()
    target = one.target(rows, reward)
    assert target.shape == (3, 10)
    assert torch.equal(target[:, 4], reward[:, 4])
    following = one._target(one._target.encoder(rows.next_observation))
    assert torch.allclose(target[2, 0], reward[2, 0] + 0.5 * following[2, 0]), "each response has its own discount"
    # what happens to other rows does not reach this one; in the reference it does
    others = replace(rows, terminated=torch.arange(10) > 3)
    assert torch.equal(one.target(others, reward)[:, 0], target[:, 0])
    ends = (rows.terminated, others.terminated)
    assert (
        quirks.broadcast_target(reward[0], 0.99, ~ends[0], following[0])[0]
        != quirks.broadcast_target(reward[0], 0.99, ~ends[1], following[0])[0]
    )


def test_critics_do_not_touch_each_other():
    rows = small.three_rewards("item")
    first, second = critic(), critic()
    reward = rows.reward.T.contiguous()
    other = reward.clone()
    other[2] = 100.0
    ratio = torch.rand(3, 10, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        a, b = first.learn(look(rows, reward), reward, ratio), second.learn(look(rows, other), other, ratio)
    assert torch.equal(a[0][:2], b[0][:2])
    for p, q in zip(first._values.parameters(), second._values.parameters(), strict=True):
        assert torch.equal(p[:2], q[:2])
        assert not torch.equal(p[2], q[2])


def test_a_row_is_weighted_by_its_ratio_and_unknown_ones_not_at_all():
    rows = small.three_rewards("item")
    reward = rows.reward.T.contiguous()
    ratio = torch.ones(10)
    ratio[3:] = 0.0
    only, all_rows = critic(), critic()
    cut = replace(rows, truncated=torch.arange(10) >= 3)
    advantage, losses = only.learn(look(cut, reward), reward, torch.ones(10))
    _, weighted = all_rows.learn(look(rows, reward), reward, ratio)
    assert torch.allclose(losses, weighted)
    assert (advantage[:, 3:] == 0).all()


def test_imitation_is_of_the_rows_own_action():
    """The gradient of a row is that of its own logged action; in the reference it is that of the batch's mean."""
    task, rows = small.task("continuous", THREE), small.three_rewards("continuous")
    config = TSCACDDPGConfig(actor=TINY, critic_hidden=(8,))
    stage = Stage(config, task, [0, 1, 2], [VectorPolicy(task.action_spec, TINY, task.item_vectors, 0)], 1)
    changed = rows.action.clone()
    changed[1:] = changed[1:].flip(0) + 0.1

    def gradient(loss, logged):
        action = stage.actions(rows, None)
        return torch.autograd.grad(loss(action, logged), action)[0][0, 0]

    ours = [gradient(lambda a, b: stage.imitation(a, b).sum(), logged) for logged in (rows.action, changed)]
    theirs = [gradient(lambda a, b: quirks.broadcast_imitation(a[0, :, 0], b[:, 0]), logged) for logged in (rows.action, changed)]
    assert torch.equal(*ours)
    assert not torch.allclose(*theirs)


def test_broadcast_imitation_is_what_it_is_said_to_be():
    action, logged = torch.rand(50), torch.rand(50)
    expected = ((action - logged.mean()) ** 2).mean() + logged.var(unbiased=False)
    assert torch.allclose(quirks.broadcast_imitation(action, logged), expected)


def test_the_published_gate_is_at_most_a_seventy_fifth():
    rank = torch.linspace(0, 150, 20)
    assert quirks.density_gate(rank, rank, 30.0).max() == pytest.approx(0.0133, abs=1e-4)
    assert torch.equal(quirks.whole_units(torch.tensor([9.9, 10.0, 25.0])), torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize("kind", ["item", "continuous"])
def test_stage_two_leaves_stage_one_alone(kind):
    rows = small.three_rewards(kind)
    for method in (TSCAC, *((TSCACDDPG,) if kind == "continuous" else ())):
        learner = method(method.config_type(actor=TINY, critic_hidden=(8,), stage_one_updates=2), small.task(kind, THREE))
        stages = [float(learner.update(rows).metrics["stage"]) for _ in range(3)]
        assert stages == [1, 1, 2]
        held = [p.clone() for aux in learner.auxiliaries() for p in aux.parameters()]
        main = [p.clone() for p in learner.policy().parameters()]
        for _ in range(3):
            metrics = learner.update(rows).metrics
        assert all(torch.equal(p, q) for p, q in zip(held, (p for aux in learner.auxiliaries() for p in aux.parameters()), strict=True))
        assert not all(torch.equal(p, q) for p, q in zip(main, learner.policy().parameters(), strict=True))
        assert {"slack_like", "slack_click", "lambda_like", "critic_loss_long_view"} <= metrics.keys()


def test_weights_and_gate_have_no_gradient():
    x = torch.rand(6, 2, requires_grad=True)
    assert not closeness_gate(x, torch.rand(2, 6, 2, requires_grad=True), torch.ones(2, 1), 0.4).requires_grad
    assert not projection_weights(x[:, 0], x[:, 1], x[:, 0], 1.0, 10.0).requires_grad
    gate = closeness_gate(x.detach(), x.detach().expand(2, -1, -1), torch.ones(2, 1), 0.4)
    assert torch.equal(gate, torch.ones(6)), "an action that is the auxiliaries' own passes whole"


def test_the_order_of_a_batch_does_not_matter():
    rows, order = small.three_rewards("item"), torch.randperm(10, generator=torch.Generator().manual_seed(3))
    shuffled = small.buffer("item").gather((torch.arange(10) * 8 + 3)[order])
    shuffled = replace(shuffled, reward=rows.reward[order])
    learners = [TSCAC(TSCACConfig(actor=TINY, critic_hidden=(8,), stage_one_updates=2), small.task("item", THREE)) for _ in range(2)]
    for _ in range(5):
        for learner, data in zip(learners, (rows, shuffled), strict=True):
            learner.update(data)
    for p, q in zip(*(learner.policy().parameters() for learner in learners), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


def test_no_gate_and_no_pull_is_the_main_response_alone():
    """F: with lambda = 0 and k = 0 deterministic TSCAC is DDPG with imitation on the main response."""
    rows = small.three_rewards("continuous")
    alone, main = replace(rows, reward=rows.reward[:, :1]), Objective(THREE.main)
    config = TSCACDDPGConfig(actor=TINY, critic_hidden=(8,), stage_one_updates=3, multipliers=(0.0,), closeness=0.0)
    free, bound = TSCACDDPG(config, small.task("continuous", main)), TSCACDDPG(config, small.task("continuous", THREE))
    for _ in range(10):
        free.update(alone)
        bound.update(rows)
    for p, q in zip(free.policy().parameters(), bound.policy().parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize("clipped", [True, False])
def test_an_independent_step_of_ddpg_with_imitation_is_the_same(clipped):
    """F, written anew with plain matrices and torch's own Adam: lambda = 0 and k = 0, five updates of stage two, to rounding."""
    spec, rows = small.task("continuous", THREE), small.three_rewards("continuous")
    rows = replace(
        rows, terminated=torch.arange(10) == 4, session_end=torch.arange(10) == 5, truncated=torch.arange(10) == (7 if clipped else 99)
    )
    options = {"stage_one_updates": 0, "multipliers": (0.0,), "closeness": 0.0, "imitation": 0.3, "tau": 0.1}
    learner = TSCACDDPG(TSCACDDPGConfig(actor=TINY, critic_hidden=(8,), **options), spec)
    main, encode = learner._main, learner.policy().actor.encoder
    critic = main._critics.critics
    here, there = encode(rows.observation), encode(rows.next_observation)
    head = [p.detach().clone().requires_grad_() for p in learner.policy().actor.body.parameters()]
    value = [p.detach()[0].clone().requires_grad_() for layer in (critic.layers[0], critic.last) for p in (layer.weight, layer.bias)]
    head_target, value_target = ([p.detach().clone() for p in held] for held in (head, value))
    assert main._half == 2.5

    def act(w, x):
        return 0.5 + 2.5 * torch.tanh(torch.relu(x @ w[0].T + w[1]) @ w[2].T + w[3])

    def worth(w, x, action):
        return (torch.relu(torch.cat([x, action], 1) @ w[0] + w[1]) @ w[2] + w[3])[:, 0]

    of_values, of_actions = torch.optim.Adam(value, 1e-3), torch.optim.Adam(head, 3e-4)
    known = (~rows.truncated | rows.terminated).float()
    for _ in range(5):
        with torch.no_grad():
            goal = rows.reward[:, 0] + 0.99 * (~rows.terminated).float() * worth(value_target, there, act(head_target, there))
        of_values.zero_grad()
        ((known * (goal - worth(value, here, rows.action)) ** 2).sum() / known.sum()).backward()
        of_values.step()
        of_actions.zero_grad()
        chosen = act(head, here)
        gain = worth(value, here, chosen)
        (0.3 * ((chosen - rows.action) / 2.5).square().mean() - gain.mean() / gain.detach().abs().mean()).backward()
        of_actions.step()
        with torch.no_grad():
            for target, online in ((value_target, value), (head_target, head)):
                for p, q in zip(target, online, strict=True):
                    p += 0.1 * (q - p)
        learner.update(rows)
    for p, q in zip(head, learner.policy().actor.body.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)
    assert torch.allclose(value[0], critic.layers[0].weight[0], atol=1e-6)


def test_deterministic_targets_end_where_the_user_does_and_discount_as_the_response_says():
    task, rows = small.task("continuous", THREE), small.three_rewards("continuous")
    across = replace(THREE.constraints[1], signal=Signal("click", 1.0, 0.5, 0.2))
    task = replace(task, objective=replace(THREE, constraints=(THREE.constraints[0], across)))
    rows = replace(rows, terminated=torch.arange(10) == 4, session_end=(torch.arange(10) == 5) | (torch.arange(10) == 4))
    stage = Stage(
        TSCACDDPGConfig(actor=TINY, critic_hidden=(8,)), task, [0, 2], [VectorPolicy(task.action_spec, TINY, task.item_vectors, 0)], 1
    )
    reward = rows.reward.T.contiguous()
    target = stage.target(rows, reward)
    state = stage._target_critics.encoder(rows.next_observation)
    following = stage._target_critics(state, stage._targets[0].actor(rows.next_observation))
    assert target.shape == (2, 10)
    assert torch.equal(target[:, 4], reward[[0, 2], 4]), "the end of a user drops what follows, session end or not"
    assert torch.allclose(target[1, 0], reward[2, 0] + 0.5 * following[1, 0]), "within a session"
    assert torch.allclose(target[1, 5], reward[2, 5] + 0.2 * following[1, 5]), "across sessions"
    assert torch.allclose(target[0, 5], reward[0, 5] + 0.99 * following[0, 5])


def test_deterministic_critics_do_not_touch_each_other():
    task, rows = small.task("continuous", THREE), small.three_rewards("continuous")
    config = TSCACDDPGConfig(actor=TINY, critic_hidden=(8,))
    first, second = (Stage(config, task, [0, 1, 2], [VectorPolicy(task.action_spec, TINY, task.item_vectors, 0)], 1) for _ in range(2))
    reward = rows.reward.T.contiguous()
    other = reward.clone()
    other[2] = 100.0
    for _ in range(3):
        first.learn_values(rows, None, reward)
        second.learn_values(rows, None, other)
    for p, q in zip(first._critics.critics.parameters(), second._critics.critics.parameters(), strict=True):
        assert torch.equal(p[:2], q[:2])
        assert not torch.equal(p[2], q[2])


def gradients(learner, rows, optimiser: str, parameters) -> list[torch.Tensor]:
    """The gradient with which one update moves parameters by an optimiser."""
    seen: list[torch.Tensor] = []
    getattr(learner, optimiser).descend = lambda loss: seen.extend(torch.autograd.grad(loss, parameters))
    learner.update(rows)
    return seen


def by_hand(policy: ItemPolicy, rows, weight: torch.Tensor) -> list[torch.Tensor]:
    """``- mean [ weight grad log pi(a|s) ]``, row by row; weights are numbers."""
    total = [torch.zeros_like(p) for p in policy.parameters()]
    for k, w in enumerate(weight.tolist()):
        each = torch.autograd.grad(policy.log_prob(rows.observation, rows.action)[k], list(policy.parameters()))
        total = [t - w * g / len(weight) for t, g in zip(total, each, strict=True)]
    return total


def ratio_of(policy: ItemPolicy, behaviour: ItemPolicy, rows, clip: float) -> torch.Tensor:
    with torch.no_grad():
        return (policy.log_prob(rows.observation, rows.action) - behaviour.log_prob(rows.observation, rows.action)).exp().clamp_max(clip)


@pytest.mark.parametrize("clip", [10.0, 1.0])
def test_ratios_carry_no_gradient(clip):
    """RCPO's step and those of TSCAC's stage one are ``rho A grad log pi``: with a gradient through ``rho`` they would be another."""
    rows, spec = small.three_rewards("item"), small.task("item", THREE)
    gain = torch.randn(1, 10, generator=torch.Generator().manual_seed(5))
    same = {"actor": TINY, "critic_hidden": (8,), "standardise": False, "imitation": 0.05, "ratio_clip": clip, "actor_learning_rate": 0.05}
    rcpo = RCPO(RCPOConfig(**same, stage_one_updates=1), spec)
    rcpo.update(rows)
    rcpo._critic.learn = lambda look, reward, ratio: (gain, torch.zeros(1))
    rcpo.update(rows)  # leaves the clone
    policy = rcpo.policy()
    weight = ratio_of(policy, rcpo._behaviour, rows, clip) * gain[0] + 0.05
    expected = by_hand(policy, rows, weight)
    for p, q in zip(gradients(rcpo, rows, "_optimiser", list(policy.parameters())), expected, strict=True):
        assert torch.allclose(p, q, atol=1e-6)

    tscac = TSCAC(TSCACConfig(**same, stage_one_updates=4), spec)
    for _ in range(2):
        tscac.update(rows)
    gains = torch.cat([gain, -gain])
    tscac._auxiliary_critics.learn = lambda look, reward, ratio: (gains, torch.zeros(2))
    expected = []
    for aux, each in zip(tscac.auxiliaries(), gains, strict=True):
        expected += by_hand(aux, rows, ratio_of(aux, tscac._behaviour, rows, clip) * each + 0.05)
    found = gradients(tscac, rows, "_auxiliary_optimiser", [p for aux in tscac.auxiliaries() for p in aux.parameters()])
    for p, q in zip(found, expected, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_the_clone_is_fitted_first_and_then_frozen():
    """Stage one divides by a clone that no longer moves; its policies do not move while it is fitted; a learner resumes in between."""
    rows, spec = small.three_rewards("item"), small.task("item", THREE)
    learner = TSCAC(TSCACConfig(actor=TINY, critic_hidden=(8,), stage_one_updates=6, cloning_share=0.4), spec)
    assert learner.config.cloning_updates == 3

    def parameters(policies):
        return [p.detach().clone() for policy in policies for p in policy.parameters()]

    def same(one, other):
        return all(torch.equal(p, q) for p, q in zip(one, other, strict=True))

    start = parameters(learner.auxiliaries())
    for k in range(8):
        clone, aux, main = (parameters(x) for x in ([learner._behaviour], learner.auxiliaries(), [learner.policy()]))
        metrics = learner.update(rows).metrics
        cloning, stage_one = k < 3, 3 <= k < 6
        assert same(clone, parameters([learner._behaviour])) == (not cloning)
        assert same(aux, parameters(learner.auxiliaries())) == (not stage_one)
        assert same(main, parameters([learner.policy()])) == stage_one
        assert ("cloning_loss" in metrics, "actor_loss_like" in metrics) == (cloning, stage_one)
        if k == 2:
            assert same(start, parameters(learner.auxiliaries()))
            assert same(parameters([learner._behaviour]), parameters([learner.policy()]))


def test_a_told_logging_policy_needs_no_clone():
    rows = replace(small.three_rewards("item"), behaviour_log_prob=torch.full((10,), -2.0))
    learner = TSCAC(TSCACConfig(actor=TINY, critic_hidden=(8,), stage_one_updates=4), small.task("item", THREE))
    assert "actor_loss_like" in learner.update(rows).metrics


def test_one_critic_and_fixed_multipliers_are_the_joint_critic():
    rows, spec = small.three_rewards("item"), small.task("item", THREE)
    same = {"actor": TINY, "critic_hidden": (8,), "stage_one_updates": 2}
    learners = RCPO(RCPOConfig(**same, multipliers=(3.0,)), spec), JointCritic(JointCriticConfig(**same, weights=(3.0,)), spec)
    for _ in range(6):
        for learner in learners:
            learner.update(rows)
    for p, q in zip(*(learner.policy().parameters() for learner in learners), strict=True):
        assert torch.allclose(p, q, atol=1e-5)
