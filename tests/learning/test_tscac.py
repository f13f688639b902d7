"""TSCAC and its baselines learn, from a log of a tiny constrained decision process, what a linear program knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recrl.algorithms.actor_critic import ActorCritic
from recrl.algorithms.joint_critic import JointCritic
from recrl.algorithms.pareto import Pareto
from recrl.algorithms.rcpo import RCPO
from recrl.algorithms.task import Task
from recrl.algorithms.tscac import TSCAC
from recrl.algorithms.tscac_ddpg import TSCACDDPG, TSCACDDPGConfig
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Constraint, Objective, Signal
from recrl.policies.encoders import EncoderConfig
from recrl.policies.vector import ActorConfig
from tests.support.cmdp import ACTIONS, CMDP, DISCOUNT, STATES

LINEAR = ActorConfig(EncoderConfig("flat", features=STATES), hidden=())
WORLD = CMDP(0)
UNIFORM = np.full((STATES, ACTIONS), 1.0 / ACTIONS)


@pytest.fixture(scope="module")
def batches() -> list[Transitions]:
    """Logged transitions in batches of 512."""
    return [WORLD.log(256, seed) for seed in range(32)]


def objective(bound: float | None = None, discount: float = DISCOUNT) -> Objective:
    protected = Signal("like", 1.0, discount, discount)
    return Objective(Signal("watch_seconds", 1.0, discount, discount), (Constraint(protected, "at_least", bound),))


def learned(method: type[ActorCritic], batches: list[Transitions], updates: int = 300, goal: Objective | None = None, **options):
    """A linear learner after so many updates, a third of them in stage one."""
    rates = {"actor_learning_rate": 0.05, "critic_learning_rate": 0.05, "tau": 0.1, "stage_one_updates": updates // 3}
    config = method.config_type(actor=LINEAR, critic_hidden=(), **{**rates, **options})
    learner = method(config, Task(ActionSpec("discrete", choices=ACTIONS), goal or objective()))
    for k in range(updates):
        learner.update(batches[k % len(batches)])
    return learner


def law(policy) -> np.ndarray:
    return policy.log_probs(Observation(features=torch.eye(STATES))).exp().detach().double().numpy()


def test_lambda_leads_from_the_protected_response_to_the_main_one(batches):
    """Value of both responses by linear algebra, best ones by linear programming: (3.84, 1.18) free, (0.83, 5.93) protected alone."""
    free, _ = WORLD.optimum()
    most = WORLD.optimum(response=1)[0]
    learners = [learned(TSCAC, batches, multipliers=(lam,)) for lam in (0.03, 0.3, 30.0)]
    little, middle, much = (WORLD.earned(law(learner.policy())) for learner in learners)
    aux = WORLD.earned(law(learners[0].auxiliaries()[0]))
    assert aux[1] > 0.97 * most, "stage one finds the best policy for its response"
    assert little[0] > middle[0] > much[0]
    assert little[1] < middle[1] < much[1]
    worst = WORLD.earned(WORLD.optimum(response=1)[1])[0]
    assert little[0] > worst + 0.85 * (free - worst)
    assert np.allclose(much, aux, atol=0.1)
    for earned in (little, middle, much):
        assert earned[0] <= WORLD.optimum(least=earned[1] - 1e-9)[0] + 1e-6


def test_stage_one_beats_the_clone_on_its_response(batches):
    learner = learned(TSCAC, batches, updates=150, stage_one_updates=150)
    cloned, aux = law(learner.policy()), law(learner.auxiliaries()[0])
    # 8,192 rows: a share of 1/3 has a standard error of .009
    assert np.allclose(cloned, UNIFORM, atol=0.06)
    assert WORLD.earned(aux)[1] > WORLD.earned(UNIFORM)[1] + 1.0


def test_a_skewed_log_is_corrected_for(batches):
    """The logger prefers action 0; with ratios to its clone the same policy is found."""
    skewed = np.tile([0.7, 0.2, 0.1], (STATES, 1))
    log = [WORLD.log(256, 100 + seed, skewed) for seed in range(32)]
    ours, theirs = (WORLD.earned(law(learned(TSCAC, x, multipliers=(30.0,)).policy())) for x in (log, batches))
    assert np.allclose(ours, theirs, atol=0.25)


def test_learned_multipliers_keep_the_bound(batches):
    """Without a future the problem is a linear program over actions: the bound holds and little of the main response is lost."""
    bound = 0.6
    options = {"multipliers": (0.0,), "multiplier_learning_rate": 0.02, "standardise": False, "imitation": 0.05}
    learner = learned(RCPO, batches, updates=600, goal=objective(bound, 0.0), **options)
    policy = law(learner.policy())
    main, protected = (float((policy * reward).sum(1).mean()) for reward in WORLD.reward)
    free = float(WORLD.reward[0].max(1).mean())
    assert protected > bound - 0.06
    assert float((np.eye(ACTIONS)[WORLD.reward[0].argmax(1)] * WORLD.reward[1]).sum(1).mean()) < bound - 0.1, "the bound binds"
    assert main > 0.5 * free


@pytest.mark.parametrize(
    ("method", "options"), [(JointCritic, {"weights": (0.0,)}), (RCPO, {"critics": "separate", "multipliers": (0.0,)})]
)
def test_no_weight_on_the_protected_response_is_the_main_one_alone(method, options, batches):
    assert WORLD.earned(law(learned(method, batches, **options).policy()))[0] > 0.93 * WORLD.optimum()[0]


def test_a_harm_is_avoided(batches):
    goal = objective()
    harm = replace(goal, constraints=(replace(goal.constraints[0], direction="at_most"),))
    policy = law(learned(TSCAC, batches, goal=harm, multipliers=(30.0,)).policy())
    least = -WORLD.optimum(response=1)[0]
    assert WORLD.earned(policy)[1] < WORLD.earned(UNIFORM)[1] - 1.0 > least


def test_min_norm_weights_lead_to_the_frontier(batches):
    """Where no response gains without loss to the other, and between the two best policies."""
    main, protected = WORLD.earned(law(learned(Pareto, batches).policy()))
    free, greedy = WORLD.optimum()
    assert WORLD.optimum(least=protected)[0] - main < 0.1 * free
    assert WORLD.earned(greedy)[1] + 0.5 < protected < WORLD.optimum(response=1)[0] - 0.5


def vectors(pull: float, updates: int = 400) -> TSCACDDPG:
    """Main reward highest at action 0.8, protected at -0.6, logged actions uniform."""
    rng = torch.Generator().manual_seed(0)
    x, action = torch.rand(128, 2, generator=rng), torch.rand(128, 1, generator=rng) * 2 - 1
    reward = torch.cat([1 - (action - 0.8) ** 2, 1 - (action + 0.6) ** 2], dim=1)
    none, seen = torch.zeros(128, dtype=torch.bool), Observation(features=x)
    rows = Transitions(seen, action, reward, seen, none, none, none)
    actor = ActorConfig(EncoderConfig("flat", features=2), hidden=(16,))
    options = TSCACDDPGConfig(actor, (32,), 2e-3, 1e-2, stage_one_updates=updates // 2, imitation=0.1, closeness=pull, multipliers=(0.0,))
    learner = TSCACDDPG(options, Task(ActionSpec("continuous", (1,)), objective(discount=0.0)))
    for _ in range(updates):
        metrics = learner.update(rows).metrics
    learner.metrics = metrics
    with torch.no_grad():
        learner.chosen = [float(policy.centre(seen).mean()) for policy in (learner.policy(), *learner.auxiliaries())]
    return learner


def test_deterministic_actors_go_where_they_are_pulled():
    """F: a strong pull stays at stage one's action, none goes to the main response's best; values are those of the chosen action."""
    far, near = vectors(0.0), vectors(50.0)
    assert far.chosen == pytest.approx([0.8, -0.6], abs=0.2)
    assert near.chosen[0] == pytest.approx(near.chosen[1], abs=0.05)
    assert float(near.metrics["distance_like"]) < 0.05 < float(far.metrics["distance_like"])
    assert float(far.metrics["value_watch_seconds"]) == pytest.approx(1.0, abs=0.12)


def test_critics_fit_and_actions_follow_the_state_within_their_range():
    """F: the best action is the first feature less a half; critics' errors fall, actions spread as the best ones do, none is pinned."""
    rng = torch.Generator().manual_seed(1)
    x, action = torch.rand(256, 2, generator=rng), torch.rand(256, 1, generator=rng) * 2 - 1
    best = x[:, :1] - 0.5
    reward = torch.cat([1 - (action - best) ** 2, 1 - (action + 0.6) ** 2], dim=1)
    none, seen = torch.zeros(256, dtype=torch.bool), Observation(features=x)
    rows = Transitions(seen, action, reward, seen, none, none, none)
    actor = ActorConfig(EncoderConfig("flat", features=2), hidden=(16,))
    options = TSCACDDPGConfig(actor, (32,), 3e-3, 1e-2, stage_one_updates=150, imitation=0.05, closeness=0.0, multipliers=(0.0,))
    learner = TSCACDDPG(options, Task(ActionSpec("continuous", (1,)), objective(discount=0.0)))
    losses = [learner.update(rows).metrics for _ in range(550)]
    for name, first in (("like", 0), ("watch_seconds", 150), ("like", 150)):
        assert float(losses[-1 if first else 149][f"critic_loss_{name}"]) < 0.3 * float(losses[first][f"critic_loss_{name}"])
    with torch.no_grad():
        chosen = learner.policy().centre(seen)
    assert float(chosen.std()) > 0.5 * float(best.std())
    assert float(chosen.abs().max()) < 0.95, "none is pinned to an end of the range"
    assert float(torch.corrcoef(torch.cat([chosen, best], 1).T)[0, 1]) > 0.9
