"""The suites notice what is broken: each planted fault breaks exactly the clause it should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import recrl_datasets as rd
import simulators
from offline_eval import REGISTRY as ESTIMATORS
from recrl.algorithms.bc import BC, BCConfig
from recrl.checks import check_algorithm, check_estimator, check_policy, check_sampler, check_store, check_world
from recrl.core.contracts import Action, Update
from recrl.core.errors import ContractError
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose
from recrl.policies.discrete import DiscretePolicy
from recrl.policies.gaussian import GaussianPolicy
from recrl.policies.items import ItemPolicy, TableScores, item_spec
from recrl.policies.vector import ActorConfig, VectorPolicy
from recrl.replay.samplers import UniformSampler
from recrl.replay.sessions import LoggedSessions, SessionSampler
from tests.support import small


def observation():
    return small.buffer("item").observation(torch.arange(10) * 8 + 3)


def table_policy():
    return ItemPolicy(TableScores(torch.arange(small.N_ITEMS)), item_spec(small.N_ITEMS))


class Uncalibrated(ItemPolicy):
    def log_prob(self, observation, action):
        return super().log_prob(observation, action) - 0.1


class Crowded(ItemPolicy):
    def act(self, observation, streams, *, step=0, deterministic=False):
        action = super().act(observation, streams, step=step, deterministic=deterministic)
        return Action(action.value.roll(1), action.log_prob.roll(1)) if len(observation) < 10 else action


class Restless(ItemPolicy):
    def act(self, observation, streams, *, step=0, deterministic=False):
        return super().act(observation, streams, step=step)


class Unbounded(VectorPolicy):
    def act(self, observation, streams, *, step=0, deterministic=False):
        return Action(super().act(observation, streams, step=step, deterministic=deterministic).value + 10.0)


class Unsaved(ItemPolicy):
    def save(self, folder):
        random = ItemPolicy(TableScores(torch.zeros(small.N_ITEMS)), self.action_spec)
        random.save(folder)


class Surrogate(VectorPolicy):
    """The density before clipping, whether the action was clipped or not."""

    def act(self, observation, streams, *, step=0, deterministic=False):
        action = super().act(observation, streams, step=step, deterministic=deterministic)
        return action if deterministic else Action(action.value, self.log_prob(observation, action.value).detach())

    def log_prob(self, observation, action):
        return torch.distributions.Normal(self.actor(observation), self.spread).log_prob(action).sum(-1)


class Unsquashed(GaussianPolicy):
    """Forgets that squashing moves mass together."""

    def act(self, observation, streams, *, step=0, deterministic=False):
        return Action(super().act(observation, streams, step=step, deterministic=deterministic).value)

    def log_prob(self, observation, action):
        law = self.actor(observation)
        return torch.distributions.Normal(law.mean, law.log_spread.exp()).log_prob(torch.atanh(action / 5 - 0.1)).sum(-1)


class Eager(DiscretePolicy):
    """Draws from sharper probabilities than it tells."""

    def act(self, observation, streams, *, step=0, deterministic=False):
        if deterministic:
            return super().act(observation, streams, step=step, deterministic=True)
        noise = streams.gumbel(observation.user, step, Purpose.EXPLORATION, (5,))
        return Action((4.0 * self.log_probs(observation) + noise).argmax(1))


class Placed(ItemPolicy):
    """Draws by the place in the batch, not by the user."""

    def act(self, observation, streams, *, step=0, deterministic=False):
        return super().act(replace(observation, user=torch.arange(len(observation))), streams, step=step, deterministic=deterministic)


class Repeating(ItemPolicy):
    """Gives a slate that repeats an item a chance that others had."""

    def log_prob(self, observation, action):
        scores = self.scores(observation, None) / self.temperature
        return torch.log_softmax(scores, 1).gather(1, action).sum(1)

    def act(self, observation, streams, *, step=0, deterministic=False):
        return Action(super().act(observation, streams, step=step, deterministic=deterministic).value)


WIDE = ActorConfig(exploration=1.0)
CONTINUOUS = replace(small.task("continuous").action_spec, low=-4.5, high=5.5)
SCORES = TableScores(torch.arange(small.N_ITEMS))
BROKEN_POLICIES = [
    (Uncalibrated(SCORES, item_spec(small.N_ITEMS)), "act and log_prob agree"),
    (Crowded(SCORES, item_spec(small.N_ITEMS), 3.0), "does not depend on who else is in the batch"),
    (Restless(SCORES, item_spec(small.N_ITEMS), 3.0), "deterministic actions draw nothing"),
    (Unsaved(SCORES, item_spec(small.N_ITEMS), 3.0), "a saved and loaded policy acts the same"),
    (Surrogate(CONTINUOUS, WIDE, small.item_vectors()), "the law integrates to 1"),
    (Unsquashed(CONTINUOUS, WIDE, small.item_vectors()), "the law integrates to 1"),
    (Eager(small.task("discrete").action_spec, ActorConfig(hidden=(16,)), small.item_vectors()), "drawn as often as log_prob says"),
    (Placed(SCORES, item_spec(small.N_ITEMS), 3.0), "not on its place in the batch"),
    (Repeating(SCORES, item_spec(small.N_ITEMS, 2), 3.0), "the probabilities of all actions add up to 1"),
    (Unbounded(small.task("continuous").action_spec, ActorConfig(), small.item_vectors()), "actions stay inside their bounds"),
]


@pytest.mark.parametrize(("policy", "clause"), BROKEN_POLICIES, ids=lambda x: type(x).__name__ if not isinstance(x, str) else "")
def test_policy_suite(policy, clause):
    with pytest.raises(ContractError, match=clause):
        check_policy(policy, observation())


class Forgetful(BC):
    def state_dict(self):
        state = super().state_dict()
        return {**state, "optimiser": torch.optim.AdamW(self._policy.parameters(), lr=1e-3).state_dict()}


class Meddling(BC):
    def update(self, batch):
        batch.reward.add_(1.0)
        return super().update(batch)


class Silent(BC):
    def update(self, batch):
        super().update(batch)
        return Update({})


class Unseeded(BC):
    def __init__(self, config, task, seed=0):
        super().__init__(config, task, 7)


@pytest.mark.parametrize(
    ("learner", "clause"),
    [
        (Forgetful, "a restored learner goes on exactly"),
        (Meddling, "an update leaves its batch as it is"),
        (Silent, "an update reports metrics"),
        (Unseeded, "another seed builds another learner"),
    ],
)
def test_algorithm_suite(learner, clause):
    batch = small.buffer("item").gather(torch.arange(10) * 8 + 3)
    with pytest.raises(ContractError, match=clause):
        check_algorithm(lambda seed: learner(BCConfig(), small.task("item"), seed), batch)


class Sticky(UniformSampler):
    def sample(self, size, step):
        return super().sample(size, 0)


class Drifting(UniformSampler):
    calls = 0

    def sample(self, size, step):
        self.calls += 1
        return super().sample(size, self.calls)


class Shuffled(SessionSampler):
    """The rows of a segment in another order."""

    def sample(self, size, step):
        batch = super().sample(size, step)
        order = torch.arange(len(batch)).flip(0)
        return replace(self.source.buffer.gather(batch.index[order]), segments=batch.segments)


class Merged(SessionSampler):
    """Two sessions passed off as one."""

    def sample(self, size, step):
        batch = super().sample(2 * size, step)
        return replace(batch, segments=Offsets(batch.segments.values[::2]))


@pytest.mark.parametrize(("sampler", "clause"), [(Shuffled, "goes on where the row before it ended"), (Merged, "rows of one user")])
def test_segment_suite(sampler, clause):
    source = LoggedSessions(small.buffer("item"), small.small_log())
    source.buffer = small.buffer("item")
    with pytest.raises(ContractError, match=clause):
        check_sampler(sampler(source, seed=1))


@pytest.mark.parametrize(("sampler", "clause"), [(Sticky, "other steps give other batches"), (Drifting, "equal steps give equal batches")])
def test_sampler_suite(sampler, clause):
    with pytest.raises(ContractError, match=clause):
        check_sampler(sampler(small.buffer("item"), torch.arange(90), seed=1))


class Wrapped:
    """A world with one clause broken."""

    def __init__(self, world):
        self.world, self.action_spec = world, world.action_spec

    def initial_state(self, users, streams):
        return self.world.initial_state(users, streams)

    def observe(self, state):
        return self.world.observe(state)

    def transition(self, state, action, streams):
        return self.world.transition(state, action, streams)


class Impure(Wrapped):
    def transition(self, state, action, streams):
        after, outcome = super().transition(state, action, streams)
        state.satisfaction.add_(1.0)
        return after, outcome


class Gossiping(Wrapped):
    def transition(self, state, action, streams):
        after, outcome = super().transition(state, action, streams)
        return replace(after, satisfaction=after.satisfaction + after.satisfaction.mean()), outcome


class Generous(Wrapped):
    def transition(self, state, action, streams):
        after, outcome = super().transition(state, action, streams)
        return after, replace(outcome, reward=outcome.reward + 1.0)


@pytest.mark.parametrize(
    ("world", "clause"),
    [
        (Impure, "transition leaves its state as it is"),
        (Gossiping, "a user does not depend on who else is simulated"),
        (Generous, "users who are gone get no reward"),
    ],
)
def test_world_suite(world, clause):
    with pytest.raises(ContractError, match=clause):
        check_world(world(simulators.REGISTRY["toy"]()), torch.arange(20), requests=60)


class Biased:
    name = "biased"

    def contributions(self, feedback):
        parts = ESTIMATORS["snips"].contributions(feedback)
        return replace(parts, numerators=parts.numerators * 1.01)


class Ordered:
    name = "ordered"

    def contributions(self, feedback):
        parts = ESTIMATORS["snips"].contributions(feedback)
        position = np.linspace(0.9, 1.1, parts.numerators.shape[1])
        return replace(parts, numerators=parts.numerators * position)


class Believing:
    """Half of what it reports is what a model says."""

    name = "believing"

    def contributions(self, feedback):
        parts = ESTIMATORS["ips"].contributions(feedback)
        return replace(parts, numerators=0.5 * (parts.numerators + feedback.target_value))


@pytest.mark.parametrize(
    ("estimator", "clause"),
    [
        (Biased(), "for the logging policy itself"),
        (Ordered(), "the order of rows does not matter"),
        (Believing(), "whatever was predicted"),
    ],
)
def test_estimator_suite(estimator, clause):
    with pytest.raises(ContractError, match=clause):
        check_estimator(estimator)


class Unsorted:
    """A store whose log comes in another order than promised."""

    def __init__(self, store):
        self.manifest, self.users, self.items = store.manifest, store.users, store.items
        self._log = store.log()

    def log(self, include_duplicates=False):
        log = self._log
        order = np.argsort(log.column("timestamp_ms"), kind="stable")
        shuffled = {name: log.column(name)[order] for name in ("user", "item", "timestamp_ms")}

        class Shuffled:
            n_rows, user_offsets = log.n_rows, log.user_offsets

            def column(self, name):
                return shuffled[name]

        return Shuffled()


def test_store_suite(tmp_path):
    with pytest.raises(ContractError, match="rows are sorted by user and time"):
        check_store(Unsorted(rd.prepare("ml-100k", stores=tmp_path)))
