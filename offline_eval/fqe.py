"""Fitted Q evaluation with networks: what a policy's sequences are worth, for item, slate, discrete and vector actions alike.

The target policy enters through the contract alone: all its actions with their probabilities where an action is one of a few
choices, drawn actions elsewhere. A step's target is ``r + discount (1 - terminated) E_pi q'(s', .)`` with ``q'`` a copy of the network
that is renewed now and then; the discount is the signal's, within a session or across its end.

**When it fails**: as :mod:`offline_eval.fitted_q`; and a network may diverge where the target policy leaves the log's actions. Read the
value beside one with weights.

**Source**: Le, Voloshin and Yue, ICML 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from offline_eval.direct import user_folds
from offline_eval.networks import ONE_HOT_UP_TO, ActionFeatures, ActionValue, descend
from recrl.core.contracts import LoggedFeedback, Observation, Policy, Progress, Transitions
from recrl.core.errors import ConfigError, DataError
from recrl.core.objective import Signal
from recrl.core.torch.streams import TensorStreams

Float64 = NDArray[np.float64]
Encoder = Callable[[Observation], Tensor]


class TransitionSource(Protocol):
    """Rows of a log as transitions, for example :class:`recrl.replay.logged.LoggedBuffer`."""

    def __len__(self) -> int: ...

    def gather(self, index: Tensor) -> Transitions:
        """Transitions of the rows ``index`` (B,)."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """Transitions that are tensors already, as a source."""

    transitions: Transitions

    def __len__(self) -> int:
        return len(self.transitions)

    def gather(self, index: Tensor) -> Transitions:
        """Transitions of the rows ``index`` (B,)."""
        taken: dict[str, Any] = {}
        for f in fields(self.transitions):
            value = getattr(self.transitions, f.name)
            if isinstance(value, Tensor | Observation):
                taken[f.name] = value[index]
        return replace(self.transitions, **taken, segments=None, notes={})


@dataclass(frozen=True)
class FQEConfig:
    """Options of fitted Q evaluation.

    Attributes:
        hidden: widths of the network's hidden layers.
        steps: gradient steps for each fold.
        batch: rows a step.
        learning_rate: of Adam.
        renew_every: steps between renewals of the target network.
        draws: actions drawn from the target policy where they are not listed; four times as many for the final values.
        truncated: rows where the record ends: ``drop`` leaves them out of the fit, ``bootstrap`` trusts their next observation.
        deterministic: evaluate the policy's deterministic mode.
        folds: folds of users; the values of each come from a network that saw the others.
        seed: of folds, weights, batches and drawn actions.
    """

    hidden: tuple[int, ...] = (128, 128)
    steps: int = 5_000
    batch: int = 256
    learning_rate: float = 1e-3
    renew_every: int = 100
    draws: int = 8
    truncated: Literal["drop", "bootstrap"] = "drop"
    deterministic: bool = False
    folds: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "renew_every", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1", where=f"FQEConfig.{name}")


@dataclass(frozen=True, eq=False)
class ReturnValues:
    """Predicted returns of each row, ``(n,)``: of the logged action, of the target policy there, and of it in the next state.

    The last is 0 after the end, and where the record ends and ``truncated`` is ``drop``.
    """

    logged_value: Float64
    target_value: Float64
    next_value: Float64

    def into(self, feedback: LoggedFeedback) -> LoggedFeedback:
        """The same rows' feedback with these predictions; ``final_value`` stays as it is."""
        return replace(feedback, logged_value=self.logged_value, target_value=self.target_value)


@dataclass(frozen=True, eq=False)
class Question:
    """Whose return is asked for: policy, discounts, reward column, how states are encoded, options."""

    policy: Policy
    signal: Signal
    column: int
    encode: Encoder
    options: FQEConfig

    @torch.no_grad()
    def state_value(self, value: ActionValue, observation: Observation, streams: TensorStreams, step: int, draws: int) -> Tensor:
        """``E_pi q(s, .)`` of each state, (B,): over all actions of a small catalogue, over ``draws`` drawn ones elsewhere."""
        state, spec = self.encode(observation), self.policy.action_spec
        if self.options.deterministic:
            out: Tensor = value(state, self.policy.act(observation, streams, step=step, deterministic=True).value)
            return out
        few = not spec.is_vector and not spec.shape and (spec.choices or 0) <= ONE_HOT_UP_TO
        count = (spec.choices or 0) if few else draws
        row = torch.arange(len(state), device=state.device).repeat_interleave(count)
        number = torch.arange(count, device=state.device).repeat(len(state))
        if few:
            q = self.policy.log_prob(observation[row], number).exp() * value(state[row], number)
            return q.reshape(-1, count).sum(1)
        drawn = self.policy.act(observation[row], streams, step=step * draws + number).value
        return value(state[row], drawn).reshape(-1, count).mean(1)

    @torch.no_grad()
    def backup(self, value: ActionValue, batch: Transitions, streams: TensorStreams, step: int, scale: float = 1.0) -> Tensor:
        """``r / scale + discount (1 - terminated) E_pi q(s', .)`` of each row of a batch, (B,)."""
        discount = torch.where(batch.session_end, self.signal.discount_across, self.signal.discount_within)
        following = self.state_value(value, batch.next_observation, streams, step, self.options.draws)
        return batch.reward[:, self.column] / scale + discount * (~batch.terminated) * following

    def known(self, batch: Transitions) -> Tensor:
        """Rows whose next observation may be used, or is not needed, (B,) bool."""
        return ~batch.truncated if self.options.truncated == "drop" else torch.ones_like(batch.truncated)


def fqe(
    source: TransitionSource,
    policy: Policy,
    cluster: ArrayLike,
    *,
    signal: Signal,
    column: int = 0,
    encode: Encoder | None = None,
    item_vectors: Tensor | None = None,
    config: FQEConfig | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> ReturnValues:
    """Predict the target policy's returns on every row, by networks that never saw the row's user.

    Args:
        source: the log's transitions.
        policy: the target policy.
        cluster: (n,) integer user of each row.
        signal: the discounts.
        column: which column of ``Transitions.reward``.
        encode: states as vectors (B, S); default ``Observation.features``. It is not trained.
        item_vectors: (choices, d) for item and slate actions; see :class:`offline_eval.networks.ActionFeatures`.
        config: options.
        device: where networks and batches live.
        progress: told the finished share.

    **Errors**: :class:`DataError` where users and rows do not fit, or no state vector is found.
    """
    options = config or FQEConfig()
    users = np.asarray(cluster)
    if users.shape != (len(source),):
        raise DataError(f"cluster has shape {users.shape} for {len(source)} transitions", where="fqe.cluster", mend="give one user a row")
    question = Question(policy, signal, column, encode or _features, options)
    fold = torch.as_tensor(user_folds(users, options.folds, options.seed), device=device)
    folds = int(fold.max()) + 1
    out = torch.zeros(3, len(source), dtype=torch.float64)
    for k in range(folds):
        seen, held = (torch.nonzero(part).squeeze(1) for part in (fold != k, fold == k))
        value, scale = _fit(source, question, seen, item_vectors)
        for start in range(0, held.numel(), 4 * options.batch):
            rows = held[start : start + 4 * options.batch]
            out[:, rows.cpu()] = scale * _predict(value, source.gather(rows), question)
        if progress is not None:
            progress((k + 1) / folds, "fitted Q evaluation")
    return ReturnValues(*out.numpy())


def _fit(source: TransitionSource, question: Question, rows: Tensor, item_vectors: Tensor | None) -> tuple[ActionValue, float]:
    """The fitted network and the scale of its values."""
    options = question.options
    first = source.gather(rows[:4096])
    scale = float(first.reward[:, question.column].double().pow(2).mean().sqrt()) or 1.0
    actions = ActionFeatures(question.policy.action_spec, item_vectors, options.seed)
    online = ActionValue(question.encode(first.observation[:1]).shape[-1], actions, options.hidden, options.seed).to(rows.device)
    lagged, streams = copy.deepcopy(online), TensorStreams(options.seed, rows.device)

    def loss(chosen: Tensor, step: int) -> Tensor:
        if step % options.renew_every == 0:
            lagged.load_state_dict(online.state_dict())
        batch = source.gather(chosen)
        error = online(question.encode(batch.observation), batch.action) - question.backup(lagged, batch, streams, step, scale)
        known = question.known(batch)
        return (error**2 * known).sum() / known.sum().clamp_min(1)

    descend(
        [p for p in online.parameters() if p.requires_grad],
        loss,
        rows,
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    return online, scale


@torch.no_grad()
def _predict(value: ActionValue, batch: Transitions, question: Question) -> Tensor:
    """Rows of :class:`ReturnValues`, (3, B)."""
    streams, draws = TensorStreams(question.options.seed + 1, batch.reward.device), 4 * question.options.draws
    here = question.state_value(value, batch.observation, streams, 0, draws)
    following = question.state_value(value, batch.next_observation, streams, 1, draws) * ~batch.terminated * question.known(batch)
    return torch.stack([value(question.encode(batch.observation), batch.action), here, following]).double().cpu()


def _features(observation: Observation) -> Tensor:
    if observation.features is None:
        raise DataError("observations hold no features", where="fqe.encode", mend="give encode, from Observation to (B, S)")
    features: Tensor = observation.features
    return features
