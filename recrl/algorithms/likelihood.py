"""Log-probabilities of logged actions under several policies, each state encoded once; the whole catalogue's softmax where it is too large.

Encoders without parameters (``flat``, ``history``) give the same state to every network, so it is computed once a batch; one that learns
belongs to its network and is asked by it alone.

**Sampled softmax**: ``log pi(a|s) = f(a) - log Z`` with ``Z = e^f(a) + (1/n) sum_k 1[j_k != a] e^f(j_k) / q(j_k)``, items ``j_k`` drawn
from ``q`` in proportion to training counts plus one, the same ones for all rows of a batch: unbiased in ``Z``, and no array of an update
grows with the catalogue.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recrl.algorithms.bc import BCConfig, build_policy
from recrl.algorithms.task import Task
from recrl.core.contracts import Observation, Transitions
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies import AnyPolicy
from recrl.policies.discrete import DiscretePolicy
from recrl.policies.encoders import Encoder, FlatEncoder, HistoryEncoder
from recrl.policies.gaussian import GaussianPolicy
from recrl.policies.items import ItemPolicy, SoftmaxScores
from recrl.policies.vector import ActorConfig


def build_actor(name: str, actor: ActorConfig, task: Task, seed: int) -> AnyPolicy:
    """A stochastic policy for any action kind but text: softmaxes over items, slates and choices, a squashed Gaussian over vectors.

    **Errors**: :class:`ConfigError` for text, or items without vectors and counts.
    """
    spec = task.action_spec
    if spec.kind == "text" or (spec.kind in ("item", "slate") and (task.item_vectors is None or task.item_log_counts is None)):
        raise ConfigError(
            f"{name} cannot learn {spec.kind!r} actions here",
            where=f"{name}.action_spec",
            mend="use item or slate (with item vectors and counts), discrete, embedding, fusion_weights or continuous actions",
        )
    return build_policy(BCConfig(actor=actor, spread="learned"), task, seed).to(task.device)


def encoder_of(policy: AnyPolicy) -> Encoder:
    """The state encoder of a policy that :func:`build_actor` built."""
    if isinstance(policy, ItemPolicy):
        assert isinstance(policy.scores, SoftmaxScores)
        return policy.scores.encoder
    return policy.encoder if isinstance(policy, DiscretePolicy) else policy.actor.encoder


class Likelihood:
    """Log-probabilities of actions under policies over the same task.

    Args:
        sampled_items: items that stand for the catalogue in the softmax of single items; 0 for the whole of it.
        log_counts: (n_items,) log of one plus the training count, what items are drawn by.
        seed: of the drawn items.
        device: where policies live.
    """

    def __init__(self, sampled_items: int, log_counts: Tensor | None, seed: int, device: str) -> None:
        if sampled_items < 0 or (sampled_items and log_counts is None):
            raise ConfigError(f"sampled_items={sampled_items} without item counts", where="sampled_items", mend="0 is the whole catalogue")
        self._count, self.streams = sampled_items, TensorStreams(seed, device)
        if sampled_items:
            assert log_counts is not None
            counts = log_counts.to(device, torch.float64)
            self._log_share = counts - torch.logsumexp(counts, 0)
            self._below = self._log_share.exp().cumsum(0)
            self._lane = torch.zeros(1, dtype=torch.int64, device=device)

    def begin(self, batch: Transitions, encoder: Encoder, step: int) -> tuple[Tensor | None, Tensor | None]:
        """The shared state (B, width), ``None`` where encoders learn, and the items drawn for this step (n,)."""
        state = shared_state(encoder, batch.observation)
        if not self._count:
            return state, None
        draw = self.streams.uniform(self._lane, step, Purpose.CANDIDATES, (self._count,), torch.float64)[0]
        return state, torch.searchsorted(self._below, draw).clamp_max_(self._below.numel() - 1)

    def log_prob(self, policy: AnyPolicy, batch: Transitions, state: Tensor | None, drawn: Tensor | None) -> Tensor:
        """Log-probability of ``batch.action`` under ``policy``, (B,)."""
        spec = policy.action_spec
        if spec.kind in ("item", "slate") and (spec.shape or spec.candidates == "pool"):
            return policy.log_prob(batch.observation, batch.action)
        encoded = encoder_of(policy)(batch.observation) if state is None else state
        if isinstance(policy, ItemPolicy):
            assert isinstance(policy.scores, SoftmaxScores)
            return self._of_items(policy.scores, policy.scores.body(encoded), batch.action, drawn)
        if isinstance(policy, DiscretePolicy):
            return _picked(torch.log_softmax(policy.body(encoded), dim=1), batch.action)
        assert isinstance(policy, GaussianPolicy)
        return policy.actor.head(encoded).log_prob(batch.action)

    def _of_items(self, scores: SoftmaxScores, query: Tensor, item: Tensor, drawn: Tensor | None) -> Tensor:
        if drawn is None:
            return _picked(torch.log_softmax(torch.addmm(scores.bias, query, scores.item_vectors.T), dim=1), item)
        own = (scores.item_vectors[item] * query).sum(1) + scores.bias[item]
        others = torch.addmm(scores.bias[drawn], query, scores.item_vectors[drawn].T)  # (B, n)
        others = others - (self._log_share[drawn] + math.log(self._count)).to(others.dtype)
        others = others.masked_fill(drawn == item.unsqueeze(1), -torch.inf)
        return own - torch.logsumexp(torch.cat([own.unsqueeze(1), others], dim=1), dim=1)


def shared_state(encoder: Encoder, observation: Observation) -> Tensor | None:
    """The state of an encoder without parameters, (B, width); ``None`` for one that learns."""
    return encoder(observation) if isinstance(encoder, FlatEncoder | HistoryEncoder) else None


def _picked(log_probs: Tensor, action: Tensor) -> Tensor:
    return log_probs.gather(1, action.unsqueeze(1)).squeeze(1)
