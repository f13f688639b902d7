"""Is ``log_prob`` the law of what ``act`` draws? Every action is summed over or integrated, and draws are counted against it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2

from recrl.checks.clauses import Clauses
from recrl.core.contracts import ActionSpec, Observation, Policy
from recrl.core.torch.streams import TensorStreams

FALSE_ALARM = 1e-6
"""How often the count of the draws of a correct policy is refused by chance."""
_DRAWS = 4096
_MOST_ACTIONS = 5_000
_NODES = 96

Float64 = NDArray[np.float64]


def check_law(clause: Clauses, policy: Policy, observation: Observation) -> None:
    """The law of the first user's action; too many actions, more than two dimensions and texts are passed over.

    A policy over vectors whose law has point masses at the bounds says so by a true attribute ``point_masses``.
    """
    spec, one = policy.action_spec, observation[:1]
    if spec.is_vector:
        if spec.shape[0] <= 2:
            _check_vectors(clause, policy, one)
        return
    actions = _all_actions(spec, one)
    if actions is None:
        return
    probability = np.exp(_log_probs(policy, one, actions))
    clause.require(abs(probability.sum() - 1.0) < 1e-3, "the probabilities of all actions add up to 1")
    drawn, known = _draws(policy, one).reshape(_DRAWS, -1), actions.reshape(len(actions), -1).numpy()
    code = (spec.choices or 0) ** np.arange(known.shape[1])
    order = np.argsort(known @ code)
    place = np.searchsorted((known @ code)[order], drawn @ code).clip(max=len(order) - 1)
    clause.require(np.array_equal(known[order][place], drawn), "only actions of positive probability are drawn")
    _compare(clause, np.bincount(place, minlength=len(order)), probability[order])


def _all_actions(spec: ActionSpec, one: Observation) -> torch.Tensor | None:
    if spec.kind == "text":
        return None
    pool = torch.arange(spec.choices or 0) if spec.candidates == "catalogue" else one.candidates[0].cpu()
    pool, size = pool[pool >= 0], spec.shape[0] if spec.shape else 1
    if math.perm(len(pool), size) > _MOST_ACTIONS:
        return None
    actions = torch.tensor(list(itertools.permutations(pool.tolist(), size)))
    return actions if spec.shape else actions.squeeze(1)


def _check_vectors(clause: Clauses, policy: Policy, one: Observation) -> None:
    spec, grids = policy.action_spec, []
    drawn = _draws(policy, one).astype(np.float64)
    counted = np.ones(_DRAWS, dtype=bool)
    masses_at_bounds = float(getattr(policy, "point_masses", False))
    for axis, middle in enumerate(policy.act(one, TensorStreams(5), deterministic=True).value[0].double().cpu().numpy()):
        node, cut, weight = _quadrature(spec.low, spec.high, float(middle))
        if masses_at_bounds:
            # the bounds count as points
            cut[0] = spec.low
        else:
            # beyond the last cuts float32 cannot tell actions apart: the share that is drawn there is not integrated over
            counted &= (drawn[:, axis] > cut[0]) & (drawn[:, axis] <= cut[-1])
        grids.append((np.array([spec.low, *node, spec.high]), cut, np.array([masses_at_bounds, *weight, masses_at_bounds])))
    actions = np.stack(np.meshgrid(*(node for node, _, _ in grids), indexing="ij"), axis=-1).reshape(-1, len(grids))
    log_prob = _log_probs(policy, one, torch.from_numpy(actions).to(torch.float32))
    mass = np.exp(log_prob).reshape([len(node) for node, _, _ in grids])
    for axis, (_, _, weight) in enumerate(grids):
        mass = mass * np.expand_dims(weight, [k for k in range(len(grids)) if k != axis])
    share = counted.mean()
    near = 1e-2 + 5.0 * math.sqrt(share * (1.0 - share) / _DRAWS)
    clause.require(abs(mass.sum() - share) < near, f"the law integrates to 1: {mass.sum():.4f} where {share:.4f} of the draws lie")
    cell = np.zeros(_DRAWS, dtype=np.int64)
    for axis, (_, cut, _) in enumerate(grids):
        below = mass.sum(axis=tuple(k for k in range(len(grids)) if k != axis)).cumsum() / mass.sum()
        # about quarters of the mass; a node's mass lies before the cut of the same number
        at = np.unique(np.searchsorted(below[:-1], [0.25, 0.5, 0.75]).clip(max=len(cut) - 1))
        cell = cell * (len(at) + 1) + np.searchsorted(cut[at], drawn[:, axis], side="left")
        mass = np.add.reduceat(mass, [0, *(at + 1)], axis=axis)
    _compare(clause, np.bincount(cell[counted], minlength=mass.size), mass.ravel())


def _quadrature(low: float, high: float, middle: float) -> tuple[Float64, Float64, Float64]:
    """Midpoint rule in ``t`` of ``a = centre + half tanh(v)``, ``v = v0 + sinh(t) / 100``: dense at ``middle``, dense at the bounds.

    Returns nodes (n,), the cuts around them (n + 1,) and weights (n,).
    """
    centre, half, scale, reach = (high + low) / 2.0, (high - low) / 2.0, 0.01, 7.0
    start = float(np.clip(np.arctanh(np.clip((middle - centre) / half, -0.9999, 0.9999)), -5.0, 5.0))
    cut = np.linspace(np.arcsinh((-reach - start) / scale), np.arcsinh((reach - start) / scale), _NODES + 1)
    t = (cut[1:] + cut[:-1]) / 2.0
    v = start + scale * np.sinh(t)
    weight = half / np.cosh(v) ** 2 * scale * np.cosh(t) * (cut[1] - cut[0])
    return centre + half * np.tanh(v), centre + half * np.tanh(start + scale * np.sinh(cut)), weight


def _log_probs(policy: Policy, one: Observation, actions: torch.Tensor) -> Float64:
    parts = []
    with torch.no_grad():
        for part in actions.split(1024):
            parts.append(policy.log_prob(_repeated(one, len(part)), part.to(_device(one))).double().cpu())
    return torch.cat(parts).numpy()


def _draws(policy: Policy, one: Observation) -> NDArray[Any]:
    """Independent draws for one user, at steps of their own."""
    steps = torch.arange(_DRAWS, device=_device(one)).split(1024)
    streams = TensorStreams(7, _device(one))
    return torch.cat([policy.act(_repeated(one, len(part)), streams, step=part).value.cpu() for part in steps]).numpy()


def _repeated(one: Observation, count: int) -> Observation:
    return one[torch.zeros(count, dtype=torch.int64, device=_device(one))]


def _device(observation: Observation) -> torch.device:
    return next(v.device for v in vars(observation).values() if v is not None)


def _compare(clause: Clauses, counted: NDArray[np.int64], probability: Float64) -> None:
    """Chi-square of counts against a law; cells that expect fewer than 10 draws count as one."""
    expected = probability / probability.sum() * counted.sum()
    large = expected >= 10
    cells = [np.append(values[large], values[~large].sum()) for values in (counted.astype(np.float64), expected)]
    filled = cells[1] > 0
    observed, expected = cells[0][filled], cells[1][filled]
    statistic = float(((observed - expected) ** 2 / expected).sum())
    if len(expected) > 1:
        clause.require(chi2.sf(statistic, len(expected) - 1) > FALSE_ALARM, "actions are drawn as often as log_prob says")
