"""Suites of the Policy, Sampler and Algorithm contracts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from recrl.checks.clauses import Clauses, copied, same
from recrl.checks.laws import check_law
from recrl.core.contracts import Algorithm, Observation, Policy, Sampler, Transitions
from recrl.core.ragged import Offsets
from recrl.core.torch.streams import TensorStreams
from recrl.policies import load_policy


def check_policy(policy: Policy, observation: Observation) -> None:
    """The Policy contract on a batch of at least 4 observations with distinct users.

    A policy that chooses among draws, whose law nobody can write down, says so by a false attribute ``has_law``: it tells no ``log_prob``.

    **Errors**: ``ContractError`` that names the broken clause.
    """
    clause, streams, size = Clauses("Policy", policy), TensorStreams(5), len(observation)
    clause.require(isinstance(policy, Policy), "it has action_spec, act, log_prob and save")
    spec = policy.action_spec
    action = policy.act(observation, streams, step=3)
    value = action.value
    clause.require(tuple(value.shape) == (size, *spec.shape), f"act returns values of shape (B, *{spec.shape})")
    if spec.is_vector:
        clause.require(((value >= spec.low) & (value <= spec.high)).all(), "actions stay inside their bounds")
    else:
        clause.require(
            not value.is_floating_point() and (value >= 0).all() and (value < (spec.choices or 0)).all(), "indices lie in 0..choices-1"
        )
    if spec.kind == "slate":
        ordered = value.sort(dim=1).values
        clause.require((ordered[:, 1:] != ordered[:, :-1]).all(), "a slate repeats no item")
    known = getattr(policy, "has_law", True)
    if known:
        log_prob = policy.log_prob(observation, value).detach()
        clause.require(tuple(log_prob.shape) == (size,), "log_prob has shape (B,)")
        clause.require(torch.isfinite(log_prob).all(), "a drawn action has a finite log_prob")
        clause.require(spec.is_vector or (log_prob <= 1e-6).all(), "a probability is at most 1")
        clause.require(action.log_prob is None or same(action.log_prob, log_prob, 1e-4), "act and log_prob agree")
        check_law(clause, policy, observation)
    else:
        clause.require(action.log_prob is None, "a policy without a law tells no log_prob")
    again = policy.act(observation, TensorStreams(5), step=3)
    clause.require(same(again.value, value), "equal streams and step give equal actions")
    draws = [policy.act(observation, streams, step=k).value for k in range(16)]
    clause.require(any(not same(d, value) for d in draws), "another step gives other draws")
    fixed = policy.act(observation, streams, step=3, deterministic=True).value
    clause.require(
        same(policy.act(observation, TensorStreams(6), step=4, deterministic=True).value, fixed), "deterministic actions draw nothing"
    )
    half = policy.act(observation[: size // 2], streams, step=3).value
    clause.require(same(half, value[: size // 2], 1e-5), "a user's action does not depend on who else is in the batch")
    if observation.user is not None:
        mixed = torch.tensor([size - 1, 0, 0], device=value.device)
        clause.require(
            same(policy.act(observation[mixed], streams, step=3).value, value[mixed], 1e-5),
            "a user's action depends on its id and the step, not on its place in the batch",
        )
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder))
        loaded = load_policy(Path(folder))
    clause.require(same(loaded.act(observation, streams, step=3).value, value), "a saved and loaded policy acts the same")
    if known:
        clause.require(
            same(loaded.log_prob(observation, value), policy.log_prob(observation, value)), "a loaded policy has the same log_prob"
        )


def check_sampler(sampler: Sampler, size: int = 8) -> None:
    """The Sampler contract; the size of a batch counts its transitions, or its segments where it has any.

    **Errors**: ``ContractError`` that names the broken clause.
    """
    clause = Clauses("Sampler", sampler)
    clause.require(isinstance(sampler, Sampler), "it has sample, update_priorities, state_dict and load_state_dict")
    batch = sampler.sample(size, 1)
    clause.require((len(batch) if batch.segments is None else batch.segments.count) == size, "a batch has the size asked for")
    if batch.segments is not None:
        _check_segments(clause, batch, batch.segments)
    clause.require(batch.index is not None, "a batch tells where its rows are from")
    clause.require(same(sampler.sample(size, 1).index, batch.index), "equal steps give equal batches")
    clause.require(any(not same(sampler.sample(size, k).index, batch.index) for k in range(2, 12)), "other steps give other batches")
    before = sampler.state_dict()
    sampler.update_priorities(batch.index, torch.ones(len(batch)))
    sampler.load_state_dict(before)
    clause.require(same(sampler.sample(size, 1).index, batch.index), "a restored sampler draws the same batches")


def _check_segments(clause: Clauses, batch: Transitions, segments: Offsets) -> None:
    clause.require(segments.total == len(batch), "segments cover the batch")
    clause.require((segments.lengths > 0).all(), "no segment is empty")
    follows = torch.from_numpy(np.flatnonzero(segments.positions() > 0)).to(batch.reward.device)
    if batch.cluster is not None:
        clause.require((batch.cluster[follows] == batch.cluster[follows - 1]).all(), "a segment holds rows of one user")
    # rows of one request share their state and the next one
    now, before, after = batch.observation[follows], batch.observation[follows - 1], batch.next_observation[follows - 1]
    clause.require((_equal_rows(now, after) | _equal_rows(now, before)).all(), "a row goes on where the row before it ended")
    clause.require(not (batch.terminated | batch.truncated)[follows - 1].any(), "no segment goes on after its end")


def _equal_rows(a: Observation, b: Observation) -> torch.Tensor:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Observation)]
    return torch.stack([(x == y).flatten(1).all(1) if x.ndim > 1 else x == y for x, y in pairs if x is not None and y is not None]).all(0)


def check_algorithm(build: Callable[[int], Algorithm], batch: Transitions) -> None:
    """The Algorithm contract; ``build(seed)`` makes a fresh learner for the task that ``batch`` comes from.

    **Errors**: ``ContractError`` that names the broken clause.
    """
    learner, held = build(0), copied(batch)
    clause = Clauses("Algorithm", learner)
    clause.require(
        isinstance(learner, Algorithm), "it has name, action_spec, policy, collect_policy, observe, update, state_dict and load_state_dict"
    )
    learner.observe(batch)
    for _ in range(3):
        update = learner.update(batch)
        clause.require(len(update.metrics) > 0, "an update reports metrics")
        values = torch.tensor([float(v) for v in update.metrics.values()])
        clause.require(
            torch.isfinite(values).all(), f"metrics are finite numbers: {dict(zip(update.metrics, values.tolist(), strict=True))}"
        )
    clause.require(same(batch, held), "an update leaves its batch as it is")
    twin = build(1)
    twin.load_state_dict(copied(learner.state_dict()))
    for _ in range(3):
        ours, theirs = learner.update(batch), twin.update(batch)
    clause.require(
        same({k: float(v) for k, v in ours.metrics.items()}, {k: float(v) for k, v in theirs.metrics.items()}),
        "a restored learner goes on exactly (metrics)",
    )
    clause.require(same(learner.state_dict(), twin.state_dict()), "a restored learner goes on exactly (state)")
    rebuilt = build(0)
    fresh = build(0)
    clause.require(same(rebuilt.state_dict(), fresh.state_dict()), "equal seeds build equal learners")
    clause.require(not same(build(2).state_dict(), fresh.state_dict()), "another seed builds another learner")
    for policy in {id(policy): policy for policy in (learner.policy(), learner.collect_policy())}.values():
        clause.require(policy.action_spec == learner.action_spec, "its policies have its action spec")
        check_policy(policy, batch.observation)
