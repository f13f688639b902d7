r"""A reward learned from preferences: an ensemble under the Bradley-Terry likelihood, and the batches that it relabels.

    R_e(segment) = sum_t r_e(s_t, a_t)        aggregate = "sum"; their mean with "mean"
    P_e(first preferred) = sigmoid(R_e(first) - R_e(second))
    r = (mean_e r_e - m) / d                  what learners get; m, d: mean and deviation over random rows

Between segments of one length the likelihood does not change with an offset of ``r``; between others it does, and "longer is better" alone
can explain the labels of a task like session depth. So ``sum`` refuses segments that differ in length; ``sum_any_length`` lets that trap be
looked at.

**Differences from the code that it leans on** (B-Pref): the members share their batches and differ by their first weights.

**Source**: Christiano et al., "Deep Reinforcement Learning from Human Preferences", NeurIPS 2017, equation 1; networks: Lee, Smith, Abbeel,
"PEBBLE", ICML 2021.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from recrl.algorithms.adam import Adam
from recrl.algorithms.prefrec import preference_loss
from recrl.algorithms.task import Task
from recrl.core.config import from_dict
from recrl.core.contracts import Sampler, Transitions, Update
from recrl.core.errors import ConfigError
from recrl.policies.encoders import EncoderConfig, build_encoder
from recrl.policies.networks import EnsembleLinear, initialise
from recrl.policies.storage import read_policy, save_policy
from recrl.preferences.pairs import PairBatches, segment_ids

Pretraining = Literal["none", "preferences", "feedback"]
Aggregate = Literal["sum", "mean", "sum_any_length"]


@dataclass(frozen=True)
class RewardConfig:
    """Options of a learned reward.

    Attributes:
        encoder: how states are encoded.
        hidden: sizes of the hidden layers; B-Pref's are three of 256, at many times the cost of a step.
        members: of the ensemble.
        aggregate: how rewards make a segment's return; ``sum`` wants segments of one length, ``mean`` takes any, ``sum_any_length`` is for
            showing the length trap.
        learning_rate: of Adam.
        batch_pairs: pairs a step.
        pretraining: before the policy: ``none``; on ``preferences``; or on logged ``feedback`` first and then on preferences.
        pretraining_steps: at most.
        feedback_steps: of pre-training on feedback.
        check_every: pre-training steps between looks at the validation pairs.
        patience: looks without a better accuracy after which pre-training ends.
        update_every: policy updates between reward steps; 0 freezes the reward.
        refresh_every: policy updates between new estimates of mean and deviation.
        refresh_rows: rows that they are estimated from.
    """

    encoder: EncoderConfig = EncoderConfig()
    hidden: tuple[int, ...] = (64, 64, 64)
    members: int = 3
    aggregate: Aggregate = "sum"
    learning_rate: float = 3e-4
    batch_pairs: int = 64
    pretraining: Pretraining = "preferences"
    pretraining_steps: int = 2_000
    feedback_steps: int = 500
    check_every: int = 50
    patience: int = 6
    update_every: int = 10
    refresh_every: int = 1_000
    refresh_rows: int = 8_192

    def __post_init__(self) -> None:
        for name in ("members", "batch_pairs", "pretraining_steps", "check_every", "patience", "refresh_every", "refresh_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1", where=f"reward.{name}")
        if self.update_every < 0 or self.feedback_steps < 0:
            raise ConfigError("update_every and feedback_steps must be at least 0", where="reward", mend="0 switches them off")
        if self.pretraining == "none" and self.update_every == 0:
            raise ConfigError(
                "a reward that is neither pre-trained nor updated learns nothing",
                where="reward.pretraining",
                mend="choose pretraining 'preferences', or update_every 10",
            )


class RewardEnsemble(nn.Module):
    """``members`` independent rewards in (-1, 1) of state and action in one pass: Observation (B), (B, d) -> (E, B).

    ``heads`` are linear predictions of logged feedback from the last hidden layer, for pre-training.
    """

    def __init__(self, config: RewardConfig, action_size: int, item_vectors: Tensor | None, feedback: int = 0) -> None:
        super().__init__()
        self.encoder = build_encoder(config.encoder, item_vectors)
        self.members = config.members
        sizes = [self.encoder.width + action_size, *config.hidden]
        self.layers = nn.ModuleList(EnsembleLinear(config.members, i, o) for i, o in itertools.pairwise(sizes))
        self.last = EnsembleLinear(config.members, sizes[-1], 1)
        self.heads = EnsembleLinear(config.members, sizes[-1], feedback) if feedback else None

    def trunk(self, batch: Transitions) -> Tensor:
        """The last hidden layer, (E, B, width)."""
        x = torch.cat([self.encoder(batch.observation), batch.action], dim=1).expand(self.members, -1, -1)
        for layer in self.layers:
            x = leaky_relu(layer(x))
        return x

    def forward(self, batch: Transitions) -> Tensor:
        """Rewards of the rows, (E, B)."""
        hidden = self.trunk(batch)
        return torch.tanh(torch.linalg.vecdot(hidden, self.last.weight.mT) + self.last.bias.squeeze(-1))


class LearnedReward:
    """A reward that learns from labelled pairs.

    Args:
        config: options.
        task: actions (vectors), item vectors and device.
        seed: of the networks.
        feedback: columns of the batches' reward that pre-training on feedback predicts.

    **Errors**: :class:`ConfigError` for actions that are no vectors.
    """

    def __init__(self, config: RewardConfig, task: Task, seed: int = 0, feedback: tuple[int, ...] = ()) -> None:
        if not task.action_spec.is_vector:
            raise ConfigError(
                f"a learned reward takes vector actions, not {task.action_spec.kind!r}",
                where="reward.action_spec",
                mend="use embedding, fusion_weights or continuous actions",
            )
        self.config, self.feedback = config, feedback
        self.network = RewardEnsemble(config, task.action_spec.shape[0], task.item_vectors, len(feedback))
        initialise(self.network, seed)
        self.network.to(task.device)
        heads = () if self.network.heads is None else self.network.heads.parameters()
        apart = {id(p) for p in (*heads, *self.network.last.parameters())}
        trunk = [p for p in self.network.parameters() if id(p) not in apart]
        self._optimiser = Adam([*trunk, *self.network.last.parameters()], config.learning_rate)
        self._feedback_optimiser = Adam([*trunk, *heads], config.learning_rate)

    def segment_returns(self, batch: Transitions) -> Tensor:
        """Predicted returns of the batch's segments, (E, S), with gradients.

        **Errors**: :class:`ConfigError` for segments of different lengths under ``sum``.
        """
        segments, rewards = batch.segments, self.network(batch)
        if segments is None:
            raise ConfigError("the batch has no segments", where="segment_returns", mend="draw it from PairBatches or a SessionSampler")
        check_lengths(self.config.aggregate, bool((segments.lengths == segments.lengths[:1]).all()))
        total = rewards.new_zeros(rewards.shape[0], segments.count).index_add(1, segment_ids(segments, rewards.device), rewards)
        if self.config.aggregate == "mean":
            total = total / torch.from_numpy(segments.lengths).to(rewards.device).clamp_min(1)
        return total

    def learn(self, batch: Transitions, preferred: Tensor) -> dict[str, Tensor]:
        """One step up the likelihood of ``preferred`` (P,), for ``2 P`` segments: first ones, then second ones."""
        first, second = self.segment_returns(batch).chunk(2, dim=1)
        loss = preference_loss(first, second, preferred)
        self._optimiser.descend(loss)
        return {"reward_loss": loss.detach() / self.config.members}

    def learn_feedback(self, batch: Transitions) -> dict[str, Tensor]:
        """One step of predicting logged feedback from the last hidden layer (squared error)."""
        assert self.network.heads is not None
        predicted = self.network.heads(self.network.trunk(batch))  # (E, B, k)
        loss = (predicted - batch.reward[:, list(self.feedback)]).square().mean((1, 2)).sum()
        self._feedback_optimiser.descend(loss)
        return {"feedback_loss": loss.detach() / self.config.members}

    @torch.no_grad()
    def score(self, batch: Transitions) -> Tensor:
        """Mean reward over the members, (B,)."""
        rewards: Tensor = self.network(batch)
        return rewards.mean(0)

    @torch.no_grad()
    def judge(self, batches: PairBatches, chunk: int = 256) -> tuple[Tensor, Tensor]:
        """Predicted returns of every pair of ``batches``: mean over the members (2, P) and P(first preferred), its mean over them, (P,)."""
        returns = []
        for start in range(0, len(batches.pairs), chunk):
            batch, _ = batches.gather(batches.pairs[start : start + chunk])
            returns.append(torch.stack(self.segment_returns(batch).chunk(2, dim=1)))
        both = torch.cat(returns, dim=2)  # (2, E, P)
        return both.mean(1), torch.sigmoid(both[0] - both[1]).mean(0)

    def accuracy(self, batches: PairBatches) -> float:
        """Share of the given labels that are predicted, equals left out."""
        _, probability = self.judge(batches)
        given = torch.from_numpy(batches.pairs.preferred).to(probability.device)
        decided = given != 0.5
        right = ((probability > 0.5) == (given > 0.5)) & decided
        return float(right.sum() / decided.sum().clamp_min(1))

    def state_dict(self) -> dict[str, Any]:
        """Networks and optimisers."""
        optimisers = {"optimiser": self._optimiser.state_dict(), "feedback_optimiser": self._feedback_optimiser.state_dict()}
        return {"network": self.network.state_dict(), **optimisers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._feedback_optimiser.load_state_dict(state["feedback_optimiser"])

    def save(self, folder: Path) -> None:
        """Write options and weights; JSON and safetensors, as policies are."""
        save_policy(folder, "reward", {"config": asdict(self.config), "feedback": list(self.feedback)}, self.network.state_dict())

    @classmethod
    def load(cls, folder: Path, task: Task) -> LearnedReward:
        """A saved reward.

        **Errors**: ``CheckpointError`` or ``StorageError`` for a folder that holds none.
        """
        saved, tensors = read_policy(folder)
        reward = cls(from_dict(RewardConfig, saved["config"]), task, 0, tuple(saved["feedback"]))
        reward.network.load_state_dict(tensors)
        return reward


def check_lengths(aggregate: Aggregate, equal: bool) -> None:
    """Refuse to sum rewards over segments that differ in length.

    **Errors**: :class:`ConfigError`.
    """
    if aggregate == "sum" and not equal:
        raise ConfigError(
            "summed rewards of segments of different lengths would learn that longer is better",
            where="reward.aggregate",
            mend="choose aggregate 'mean', or windows of one length; 'sum_any_length' shows what happens",
        )


class RewardPretraining:
    """Steps of pre-training, up to the best validation accuracy; meets ``Stateful``, so that it resumes exactly.

    Args:
        reward: what is trained, in place.
        train: pairs to learn from.
        valid: pairs that tell when to stop, with the labels that were given; ``None`` trains all steps.
        rows: transitions with feedback, for ``pretraining = "feedback"``.
    """

    def __init__(self, reward: LearnedReward, train: PairBatches, valid: PairBatches | None, rows: Sampler | None = None) -> None:
        config = reward.config
        check_lengths(config.aggregate, train.pairs.equal_lengths)
        self._feedback_steps = config.feedback_steps if config.pretraining == "feedback" else 0
        if self._feedback_steps and (rows is None or not reward.feedback):
            raise ConfigError("nothing holds feedback to learn from", where="reward.pretraining", mend="give rows and feedback columns")
        self.reward, self._train, self._valid, self._rows = reward, train, valid, rows
        self.steps = 0 if config.pretraining == "none" else self._feedback_steps + config.pretraining_steps
        self.done, self.accuracy, self._waited = False, -1.0, 0
        self._best: dict[str, Any] = {}

    def step(self, number: int) -> dict[str, Any]:
        """Step ``number`` = 1, 2, ...; nothing happens once the accuracy has stalled. Returns metrics."""
        config = self.reward.config
        if self.done:
            return {}
        if number <= self._feedback_steps:
            assert self._rows is not None
            return self.reward.learn_feedback(self._rows.sample(2 * config.batch_pairs, number))
        metrics: dict[str, Any] = dict(self.reward.learn(*self._train.sample(config.batch_pairs, number)))
        if self._valid is not None and ((number - self._feedback_steps) % config.check_every == 0 or number == self.steps):
            metrics["valid_accuracy"] = accuracy = self.reward.accuracy(self._valid)
            self._waited = 0 if accuracy > self.accuracy else self._waited + 1
            if accuracy > self.accuracy:
                self.accuracy, self._best = accuracy, _copied(self.reward.state_dict())
            self.done = self._waited >= config.patience
        return metrics

    def finish(self) -> None:
        """Leave the reward as it was at its best."""
        if self._best:
            self.reward.load_state_dict(self._best)

    def run(self) -> LearnedReward:
        """All steps, in memory."""
        for number in range(1, self.steps + 1):
            self.step(number)
            if self.done:
                break
        self.finish()
        return self.reward

    def state_dict(self) -> dict[str, Any]:
        """Reward, the best one so far, and whether it is done."""
        return {
            "reward": self.reward.state_dict(),
            "best": self._best,
            "accuracy": self.accuracy,
            "waited": self._waited,
            "done": self.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.reward.load_state_dict(state["reward"])
        self._best, self.accuracy = dict(state["best"]), float(state["accuracy"])
        self._waited, self.done = int(state["waited"]), bool(state["done"])


class PreferenceReward:
    """Puts the learned reward, normalised, in the place of the batches' main reward; goes on learning it meanwhile. A ``BatchTransform``.

    Nothing is kept of a batch: what it earns is computed from the reward as it is then.

    Args:
        reward: the learned reward; changed in place.
        pairs: what it goes on learning from; ``None`` freezes it.
        rows: transitions, of which mean and deviation are estimated.
    """

    def __init__(self, reward: LearnedReward, pairs: PairBatches | None, rows: Sampler) -> None:
        if pairs is not None:
            check_lengths(reward.config.aggregate, pairs.pairs.equal_lengths)
        self.reward, self._pairs, self._rows = reward, pairs, rows
        device = next(reward.network.parameters()).device
        self._mean, self._deviation = torch.zeros((), device=device), torch.ones((), device=device)
        self._step = 0

    def update(self, batch: Transitions) -> Update:
        """Every so often a reward step, and new estimates of mean and deviation."""
        config, metrics = self.reward.config, {}
        if self._step % config.refresh_every == 0:
            self._refresh()
        self._step += 1
        if self._pairs is not None and config.update_every and self._step % config.update_every == 0:
            # numbers that pre-training does not draw
            metrics = self.reward.learn(*self._pairs.sample(config.batch_pairs, 1_000_000 + self._step))
        return Update({"reward_deviation": self._deviation, **metrics})

    def _refresh(self) -> None:
        scores = self.reward.score(self._rows.sample(self.reward.config.refresh_rows, 1_000_000 + self._step))
        self._mean, self._deviation = scores.mean(), scores.std().clamp_min(1e-6)

    def apply(self, batch: Transitions) -> Transitions:
        """The batch with the learned reward as its main one."""
        learned = ((self.reward.score(batch) - self._mean) / self._deviation).unsqueeze(1)
        return batch.with_reward(torch.cat([learned, batch.reward[:, 1:]], dim=1))

    def state_dict(self) -> dict[str, Any]:
        """The reward, its mean and deviation, and the step."""
        return {"reward": self.reward.state_dict(), "mean": self._mean, "deviation": self._deviation, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.reward.load_state_dict(state["reward"])
        device = self._mean.device
        self._mean, self._deviation, self._step = state["mean"].to(device), state["deviation"].to(device), int(state["step"])


def _copied(node: Any) -> Any:
    if isinstance(node, Tensor):
        return node.detach().clone()
    if isinstance(node, Mapping):
        return {name: _copied(value) for name, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node
