"""Beside the Open Bandit Pipeline: the same value on the same arrays, for every estimator that both have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import offline_eval
from recrl.core.contracts import LoggedFeedback
from recrl.core.ragged import Offsets

pytest.importorskip("obp", reason="SKIPPED: OBP or what it imports is absent; make peers", exc_type=ImportError)
from obp import dataset as obp_data
from obp import ope as obp_ope

PAIRS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "ips": (offline_eval.IPS(), obp_ope.InverseProbabilityWeighting),
    "clipped_ips": (offline_eval.ClippedIPS(cap=2.0), lambda: obp_ope.InverseProbabilityWeighting(lambda_=2.0)),
    "snips": (offline_eval.SNIPS(), obp_ope.SelfNormalizedInverseProbabilityWeighting),
    "dm": (offline_eval.DM(), obp_ope.DirectMethod),
    "dr": (offline_eval.DR(), obp_ope.DoublyRobust),
    "sndr": (offline_eval.SNDR(), obp_ope.SelfNormalizedDoublyRobust),
    "switch_dr": (offline_eval.SwitchDR(threshold=1.5), lambda: obp_ope.SwitchDoublyRobust(lambda_=1.5)),
    "dr_os": (offline_eval.ShrunkDR(shrinkage=3.0), lambda: obp_ope.DoublyRobustWithShrinkage(lambda_=3.0)),
    "sg_ips": (offline_eval.SubGaussianIPS(strength=0.2), lambda: obp_ope.SubGaussianInverseProbabilityWeighting(lambda_=0.2)),
    "sg_dr": (offline_eval.SubGaussianDR(strength=0.2), lambda: obp_ope.SubGaussianDoublyRobust(lambda_=0.2)),
}
"""Ours and theirs. OBP has no capped self-normalised weights (ncis)."""


def generated(kind: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A log of OBP's generator, a target policy and predictions, (n, A, 1) both."""
    reward = {"binary": obp_data.logistic_reward_function, "continuous": obp_data.linear_reward_function}[kind]
    world = obp_data.SyntheticBanditDataset(n_actions=7, dim_context=3, reward_type=kind, reward_function=reward, random_state=3)
    log = world.obtain_batch_bandit_feedback(n_rounds=2_000)
    rng = np.random.default_rng(5)
    return log, rng.dirichlet(np.ones(7), 2_000)[:, :, None], rng.normal(0.4, 0.3, (2_000, 7, 1))


def sampled(logger: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """OBP's small sample of the Open Bandit Dataset: 80 items, 3 positions."""
    log = obp_data.OpenBanditDataset(behavior_policy=logger, campaign="all").obtain_batch_bandit_feedback()
    rng = np.random.default_rng(6)
    weight = rng.gamma(2.0, size=(1, 80, 3))
    target = np.tile(weight / weight.sum(axis=1, keepdims=True), (log["n_rounds"], 1, 1))
    return log, target, np.tile(rng.uniform(0.0, 0.02, (1, 80, 3)), (log["n_rounds"], 1, 1))


LOGS = {
    "generator, binary": lambda: generated("binary"),
    "generator, continuous": lambda: generated("continuous"),
    "random": lambda: sampled("random"),
    "bts": lambda: sampled("bts"),
}


@pytest.fixture(scope="module", params=list(LOGS))
def both(request: pytest.FixtureRequest) -> tuple[LoggedFeedback, dict[str, np.ndarray]]:
    log, target, predicted = LOGS[request.param]()
    row, action = np.arange(log["n_rounds"]), log["action"]
    position = np.zeros_like(row) if log["position"] is None else log["position"]
    here, guess = target[row, :, position], predicted[row, :, position]
    theirs = {
        "reward": log["reward"],
        "action": action,
        "position": position,
        "pscore": log["pscore"],
        "action_dist": target,
        "estimated_rewards_by_reg_model": predicted,
    }
    ours = LoggedFeedback(
        log["reward"], np.log(here[row, action]), np.log(log["pscore"]), row, (here * guess).sum(axis=1), guess[row, action]
    )
    return ours, theirs


@pytest.mark.parametrize("name", list(PAIRS))
def test_values_agree(name: str, both: tuple[LoggedFeedback, dict[str, np.ndarray]]) -> None:
    feedback, arrays = both
    ours, theirs = PAIRS[name]
    found = offline_eval.value(ours.contributions(feedback))
    assert found == pytest.approx(theirs().estimate_policy_value(**arrays), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("logger", ["random", "bts"])
def test_replay_agrees_on_a_deterministic_policy(logger: str) -> None:
    """With a uniform logger and one action a position, the rows that replay keeps are those where both agree."""
    log, *_ = sampled(logger)
    row, action, position = np.arange(log["n_rounds"]), log["action"], log["position"]
    chosen = np.array([int(np.bincount(action[position == k], minlength=80).argmax()) for k in range(3)])
    target = np.zeros((row.size, 80, 3))
    target[:, chosen, np.arange(3)] = 1.0
    theirs = obp_ope.ReplayMethod().estimate_policy_value(log["reward"], action, target, position)
    with np.errstate(divide="ignore"):
        agree = np.log(target[row, action, position])
    # replay draws a row with its weight over the bound: the same chance for every agreeing row makes the two the same
    ours = offline_eval.Replay().contributions(LoggedFeedback(log["reward"], agree, np.full(row.size, np.log(1 / 80)), row))
    assert offline_eval.value(ours) == pytest.approx(theirs, abs=1e-12)


def test_marginalised_ips_agrees() -> None:
    """Each action in one category, the true law of categories given to both."""
    rng = np.random.default_rng(8)
    rows, actions, categories = 500, 12, 4
    category = np.arange(actions) % categories
    logger, target = rng.dirichlet(np.ones(actions), rows), rng.dirichlet(np.ones(actions), rows)
    action = np.array([rng.choice(actions, p=p) for p in logger])
    reward = rng.random(rows)
    theirs = obp_ope.MarginalizedInverseProbabilityWeighting(n_actions=actions).estimate_policy_value(
        reward=reward,
        action=action,
        action_embed=category[action][:, None],
        pi_b=logger[:, :, None],
        action_dist=target[:, :, None],
        context=rng.normal(size=(rows, 2)),
        position=np.zeros(rows, dtype=int),
        p_e_a=np.eye(categories)[category][:, :, None],
    )
    logs = [offline_eval.category_log_prob(lambda r, law=law: law[r], category, category[action]) for law in (target, logger)]
    ours = offline_eval.IPS().contributions(LoggedFeedback(reward, *logs, np.arange(rows)))
    assert offline_eval.value(ours) == pytest.approx(theirs, rel=1e-9)


def slates() -> tuple[LoggedFeedback, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """400 slates of 3 positions with 5 items each: our log, OBP's arrays, propensities (400, 3) under the logger and the target."""
    rng = np.random.default_rng(9)
    rows, length, items = 400, 3, 5
    logger, target = (rng.dirichlet(np.ones(items), (rows, length)) for _ in range(2))
    item = np.array([[rng.choice(items, p=p) for p in of_row] for of_row in logger])
    mu, pi = (np.take_along_axis(law, item[:, :, None], axis=2)[:, :, 0] for law in (logger, target))
    reward, q = rng.random((rows, length)), rng.random((rows, length, items))
    log = LoggedFeedback(
        reward.ravel(),
        np.log(pi).ravel(),
        np.log(mu).ravel(),
        np.repeat(np.arange(rows), length),
        (target * q).sum(axis=2).ravel(),
        np.take_along_axis(q, item[:, :, None], axis=2).ravel(),
        Offsets.from_lengths(np.full(rows, length)),
    )
    arrays = {"slate_id": np.repeat(np.arange(rows), length), "reward": reward.ravel(), "position": np.tile(np.arange(length), rows)}
    arrays |= {"action": item.ravel(), "q_hat": q.ravel(), "evaluation_policy_action_dist": target.ravel()}
    return log, arrays, mu, pi


SLATES: dict[str, Any] = {
    "tis": ("SlateStandardIPS", {}, "pscore", lambda p: np.repeat(p.prod(axis=1), 3)),
    "wis": ("SelfNormalizedSlateStandardIPS", {}, "pscore", lambda p: np.repeat(p.prod(axis=1), 3)),
    "iips": ("SlateIndependentIPS", {}, "pscore_item_position", np.ravel),
    "pdis": ("SlateRewardInteractionIPS", {}, "pscore_cascade", lambda p: p.cumprod(axis=1).ravel()),
    "wpdis": ("SelfNormalizedSlateRewardInteractionIPS", {}, "pscore_cascade", lambda p: p.cumprod(axis=1).ravel()),
    "seq_dr": ("SlateCascadeDoublyRobust", {"n_unique_action": 5}, "pscore_cascade", lambda p: p.cumprod(axis=1).ravel()),
}
"""Our name; their class and options; the name of their propensities, and these from those of each position."""


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", list(SLATES))
def test_slates_agree(name: str) -> None:
    kind, options, key, propensities = SLATES[name]
    log, arrays, mu, pi = slates()
    extra = ("action", "q_hat", "evaluation_policy_action_dist") if name == "seq_dr" else ()
    given = {k: arrays[k] for k in ("slate_id", "reward", "position", *extra)}
    theirs = getattr(obp_ope, kind)(len_list=3, **options)
    value = theirs.estimate_policy_value(**given, **{key: propensities(mu), f"evaluation_policy_{key}": propensities(pi)})
    assert offline_eval.value(offline_eval.REGISTRY[name].contributions(log)) == pytest.approx(value, rel=1e-6)
