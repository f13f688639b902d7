"""Beside SCOPE-RL's basic estimators: the same value on trajectories of one length, which is all that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import offline_eval
from recrl.core.contracts import LoggedFeedback
from recrl.core.ragged import Offsets

pytest.importorskip("scope_rl.ope.discrete", reason="SKIPPED: SCOPE-RL or what it imports is absent; make peers", exc_type=ImportError)
from scope_rl.ope import discrete as theirs

PAIRS: dict[str, Any] = {
    "seq_dm": theirs.DirectMethod,
    "tis": theirs.TrajectoryWiseImportanceSampling,
    "pdis": theirs.PerDecisionImportanceSampling,
    "seq_dr": theirs.DoublyRobust,
    "wis": theirs.SelfNormalizedTIS,
    "wpdis": theirs.SelfNormalizedPDIS,
    "seq_wdr": theirs.SelfNormalizedDR,
}


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("name", list(PAIRS))
def test_values_agree(name: str, gamma: float) -> None:
    """Theirs adds 1e-10 to the weights that it divides by, ours nothing: agreement to 1e-8."""
    users, steps, actions = 300, 5, 4
    rng, n = np.random.default_rng(2), users * steps
    logger, target = rng.dirichlet(np.full(actions, 5.0), n), rng.dirichlet(np.full(actions, 5.0), n)
    action = np.array([rng.choice(actions, p=p) for p in logger])
    reward, q, row = rng.random(n), rng.normal(1.0, 1.0, (n, actions)), np.arange(n)
    ours = LoggedFeedback(
        reward,
        np.log(target[row, action]),
        np.log(logger[row, action]),
        np.repeat(np.arange(users), steps),
        target_value=(target * q).sum(axis=1),
        logged_value=q[row, action],
        trajectory=Offsets.from_lengths([steps] * users),
        discount=np.full(n, gamma),
    )
    found = PAIRS[name]().estimate_policy_value(
        step_per_trajectory=steps,
        action=action,
        reward=reward,
        pscore=logger[row, action],
        evaluation_policy_action_dist=target,
        state_action_value_prediction=q,
        gamma=gamma,
    )
    assert offline_eval.value(offline_eval.REGISTRY[name].contributions(ours)) == pytest.approx(found, rel=1e-8)
