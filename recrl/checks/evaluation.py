"""Suites of the World and Estimator contracts and of prepared stores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from offline_eval import value as value_of
from recrl.checks.clauses import Clauses, copied, same
from recrl.core.contracts import ActionSpec, Estimator, LoggedFeedback, World
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose, Streams
from recrl.core.torch.streams import TensorStreams
from recrl_datasets import Store, sessions


def check_world(world: World, users: torch.Tensor, requests: int = 12) -> None:
    """The World contract on at least 4 users, over ``requests`` requests.

    **Errors**: ``ContractError`` that names the broken clause.
    """
    clause = Clauses("World", world)
    clause.require(isinstance(world, World), "it has action_spec, initial_state, observe and transition")
    streams = TensorStreams(3)
    state, few = world.initial_state(users, streams), world.initial_state(users[:2], streams)
    gone = torch.zeros(len(users), dtype=torch.bool)
    for k in range(requests):
        observation = world.observe(state)
        clause.require(len(observation) == len(users), "an observation has one row a user")
        action = _some_action(world.action_spec, observation.candidates, len(users), k)
        held = copied(state)
        following, outcome = world.transition(state, action, streams)
        clause.require(same(state, held), "transition leaves its state as it is")
        repeated, outcome_again = world.transition(state, action, TensorStreams(3))
        clause.require(same(repeated, following) and same(outcome_again, outcome), "equal states, actions and streams give equal outcomes")
        few, few_outcome = world.transition(few, action[:2], streams)
        clause.require(
            same(few_outcome.feedback, outcome.feedback[:2]) and same(few, following[:2]), "a user does not depend on who else is simulated"
        )
        clause.require(outcome.reward.ndim == 2 and torch.isfinite(outcome.reward).all(), "rewards are finite, (B, m)")
        clause.require(not (outcome.terminated & outcome.truncated).any(), "a user is not terminated and truncated at once")
        clause.require(
            (outcome.session_end | ~(outcome.terminated | outcome.truncated)).all(), "a user leaves for good only where a session ends"
        )
        clause.require(((outcome.gap_days > 0) == outcome.session_end).all(), "a return gap stands where a session ends, and only there")
        clause.require(same(outcome.reward[gone], torch.zeros_like(outcome.reward[gone])), "users who are gone get no reward")
        gone |= outcome.terminated | outcome.truncated
        state = following


def _some_action(spec: ActionSpec, candidates: torch.Tensor | None, size: int, step: int) -> torch.Tensor:
    streams, lanes = TensorStreams(9), torch.arange(size)
    if spec.is_vector:
        return spec.low + (spec.high - spec.low) * streams.uniform(lanes, step, Purpose.EXPLORATION, spec.shape)
    choices = spec.choices or 0
    pool = torch.arange(choices).expand(size, -1) if candidates is None else candidates
    chosen = streams.uniform(lanes, step, Purpose.EXPLORATION, (pool.shape[1],)).topk(spec.shape[0] if spec.shape else 1).indices
    shown = pool.gather(1, chosen)
    return shown if spec.shape else shown.squeeze(1)


def check_estimator(estimator: Estimator) -> None:
    """The Estimator contract on a small self-made log.

    **Errors**: ``ContractError`` that names the broken clause.
    """
    clause = Clauses("Estimator", estimator)
    clause.require(isinstance(estimator, Estimator), "it has name and contributions")
    n, streams = 60, Streams(4)
    draw = streams.uniform(np.arange(n), 0, Purpose.BOOTSTRAP, (5,))
    feedback = LoggedFeedback(
        reward=draw[:, 0],
        target_log_prob=np.log(0.1 + 0.8 * draw[:, 1]),
        behaviour_log_prob=np.log(0.1 + 0.8 * draw[:, 2]),
        cluster=np.arange(n) // 3,
        target_value=draw[:, 3],
        logged_value=draw[:, 4],
        trajectory=Offsets.from_lengths(np.ones(n, dtype=np.int64)),
    )
    parts = estimator.contributions(feedback)
    clause.require(
        parts.numerators.ndim == 2 and parts.numerators.shape == parts.denominators.shape,
        "numerators and denominators have one shape (k, n)",
    )
    clause.require(
        parts.numerators.shape[1] == n and parts.cluster.shape == (n,) and parts.weights.shape == (n,),
        "contributions have one column a row (of trajectories of one row: one a trajectory)",
    )
    whole = value_of(parts)
    clause.require(np.isfinite(whole), "the value of usable feedback is finite")
    order = streams.permutation(n, 1, Purpose.BOOTSTRAP)
    arrays = ("reward", "target_log_prob", "behaviour_log_prob", "cluster", "target_value", "logged_value")
    shuffled = replace(feedback, **{name: getattr(feedback, name)[order] for name in arrays})
    clause.require(abs(value_of(estimator.contributions(shuffled)) - whole) < 1e-9, "the order of rows does not matter")
    mean = float(feedback.reward.mean())
    on_policy = replace(feedback, target_log_prob=feedback.behaviour_log_prob)
    known = value_of(estimator.contributions(replace(on_policy, target_value=feedback.reward, logged_value=feedback.reward)))
    clause.require(abs(known - mean) < 1e-9, "for the logging policy itself, all rewards foreseen, the value is the log's mean")
    louder = value_of(estimator.contributions(replace(feedback, reward=feedback.reward + 1.0)))
    if louder != whole:  # a direct method looks at predictions only
        guessed = value_of(estimator.contributions(replace(on_policy, target_value=feedback.logged_value)))
        if getattr(estimator, "shrinks_ones", False):
            low, high = sorted((float(draw[:, 4].mean()), mean))
            clause.require(low < guessed < high, "for the logging policy itself the value lies between the predictions' mean and the log's")
        else:
            clause.require(abs(guessed - mean) < 1e-9, "for the logging policy itself the value is the log's mean, whatever was predicted")
    target_value, logged_value = 2 * draw[:, 3], 2 * draw[:, 4]
    doubled = replace(feedback, reward=2 * feedback.reward, target_value=target_value, logged_value=logged_value)
    clause.require(abs(value_of(estimator.contributions(doubled)) - 2 * whole) < 1e-9, "the value scales with the reward")


def check_store(store: Store) -> None:
    """What every prepared store promises.

    **Errors**: ``ContractError`` that names the broken clause.
    """
    clause, m = Clauses("Store", store), store.manifest
    everything, log = store.log(include_duplicates=True), store.log()
    clause.require(
        everything.n_rows == m.rows and everything.n_rows - log.n_rows == m.duplicate_rows, "the manifest counts rows and duplicates"
    )
    clause.require((len(store.users), len(store.items)) == (m.users, m.items), "the tables have one row a user and an item")
    user, item, time = (everything.column(name) for name in ("user", "item", "timestamp_ms"))
    clause.require(np.all(np.diff(user) >= 0) and np.all((np.diff(time) >= 0) | (np.diff(user) > 0)), "rows are sorted by user and time")
    clause.require(user.min() >= 0 and user.max() < m.users and item.min() >= 0 and item.max() < m.items, "indices lie in their tables")
    clause.require(not user.flags.writeable, "columns are read-only")
    clause.require(
        np.array_equal(log.user_offsets.lengths, np.bincount(log.column("user"), minlength=m.users)), "offsets count the rows of each user"
    )
    cut = sessions(log)
    clause.require(
        np.array_equal(cut.users.through(cut.requests).through(cut.rows).values, log.user_offsets.values),
        "sessions and requests partition each user's rows",
    )
    last = np.zeros(cut.count, dtype=bool)
    ends = cut.users.values[1:][cut.users.lengths > 0] - 1
    last[ends] = True
    clause.require(np.array_equal(np.isnan(cut.gap_days), last), "a return gap is unknown exactly at a user's last session")
