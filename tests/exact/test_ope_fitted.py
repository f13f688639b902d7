"""Fitted Q evaluation against dynamic programming, and networks against processes whose values are known."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

import offline_eval
from offline_eval.direct import TargetActions, user_folds
from offline_eval.fitted_q import fitted_q
from offline_eval.fqe import FQEConfig, InMemory, Question, fqe
from offline_eval.networks import ActionFeatures, ActionValue, TorchRegressor
from recrl.core.contracts import Action, ActionSpec, LoggedFeedback, Observation, Transitions
from recrl.core.errors import ConfigError, DataError
from recrl.core.objective import Signal
from recrl.core.ragged import Offsets
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.items import ItemPolicy, TableScores, item_spec
from tests.support import small

STATES, ACTIONS, DISCOUNT = 4, 3, 0.8
_RNG = np.random.default_rng(11)
MOVE = _RNG.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
LEAVE = _RNG.uniform(0.05, 0.3, (STATES, ACTIONS))
REWARD = _RNG.uniform(-1, 1, (STATES, ACTIONS))
LOGGER = _RNG.dirichlet(np.full(ACTIONS, 5.0), size=STATES)
TARGET = _RNG.dirichlet(np.full(ACTIONS, 2.0), size=STATES)


def exact() -> tuple[np.ndarray, np.ndarray]:
    """Action and state values of the target policy, by linear algebra."""
    flow = np.einsum("sa,sa,sat->st", TARGET, 1 - LEAVE, MOVE)
    v = np.linalg.solve(np.eye(STATES) - DISCOUNT * flow, (TARGET * REWARD).sum(axis=1))
    return REWARD + DISCOUNT * (1 - LEAVE) * (MOVE @ v), v


@dataclass(frozen=True)
class Drawn:
    state: np.ndarray
    action: np.ndarray
    following: np.ndarray
    left: np.ndarray
    lengths: np.ndarray


def draw(users: int, seed: int = 0) -> Drawn:
    """Trajectories until the user leaves."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, bool]] = []
    lengths = []
    for _ in range(users):
        state, steps = int(rng.integers(STATES)), 0
        while True:
            action = int(rng.choice(ACTIONS, p=LOGGER[state]))
            left, following = bool(rng.random() < LEAVE[state, action]), int(rng.choice(STATES, p=MOVE[state, action]))
            rows.append((state, action, following, left))
            steps += 1
            if left:
                break
            state = following
        lengths.append(steps)
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Drawn(*columns, np.array(lengths))


def encode(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.eye(STATES * ACTIONS)[state * ACTIONS + action]


def as_log(drawn: Drawn) -> tuple[LoggedFeedback, np.ndarray, TargetActions]:
    n = drawn.state.size
    log = LoggedFeedback(
        REWARD[drawn.state, drawn.action],
        np.log(TARGET[drawn.state, drawn.action]),
        np.log(LOGGER[drawn.state, drawn.action]),
        np.repeat(np.arange(drawn.lengths.size), drawn.lengths),
        trajectory=Offsets.from_lengths(drawn.lengths),
        discount=np.full(n, DISCOUNT),
    )
    listed = np.stack([encode(drawn.state, np.full(n, a)) for a in range(ACTIONS)], axis=1)
    return log, encode(drawn.state, drawn.action), lambda rows: (listed[rows], TARGET[drawn.state[rows]])


def test_fitted_iteration_with_a_table_is_dynamic_programming_on_the_counts() -> None:
    drawn = draw(80)
    log, features, target = as_log(drawn)
    table = LinearRegression(fit_intercept=False)
    with pytest.warns(UserWarning, match=r"has not settled: the last of 4 iterations moved values by \d+%"):
        found = fitted_q(log, features, target, model=table, iterations=4, folds=3, seed=2, rows_at_once=50)
    fold = user_folds(log.cluster, 3, 2)
    index, n = drawn.state * ACTIONS + drawn.action, drawn.state.size
    last = np.zeros(n, dtype=bool)
    last[np.cumsum(drawn.lengths) - 1] = True
    for k in range(3):
        q = np.zeros(STATES * ACTIONS)
        for _ in range(4):
            v = (TARGET * q.reshape(STATES, ACTIONS)).sum(axis=1)[drawn.state]
            backup = log.reward + DISCOUNT * np.where(last, 0.0, np.append(v[1:], 0.0))
            seen = fold != k
            q = np.array([backup[seen & (index == j)].mean() for j in range(STATES * ACTIONS)])
        held = fold == k
        np.testing.assert_allclose(found.logged_value[held], q[index[held]], rtol=0, atol=1e-10)
        v = (TARGET * q.reshape(STATES, ACTIONS)).sum(axis=1)
        np.testing.assert_allclose(found.target_value[held], v[drawn.state[held]], rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("error")
def test_a_settled_fit_finds_the_value_and_dr_leans_on_it() -> None:
    """1,000 users: standard error of the value about .03; .15 is 5 of these."""
    _, v = exact()
    log, features, target = as_log(draw(1000))
    fitted = fitted_q(log, features, target, model=LinearRegression(fit_intercept=False), iterations=15)
    truth = float(v.mean())
    values = {name: offline_eval.estimate(fitted, offline_eval.REGISTRY[name]) for name in ("seq_dm", "seq_dr", "seq_wdr", "pdis")}
    for name in ("seq_dm", "seq_dr", "seq_wdr"):
        assert values[name].value == pytest.approx(truth, abs=0.15), name
    assert values["seq_dr"].interval.standard_error < 0.7 * values["pdis"].interval.standard_error


def test_a_final_value_stands_for_what_follows_the_record() -> None:
    """One step recorded, the rest known: the table's values are those of the whole process, up to the log's own frequencies."""
    log = LoggedFeedback(
        np.array([1.0, 1.0]),
        np.zeros(2),
        np.zeros(2),
        np.array([0, 1]),
        trajectory=Offsets.from_lengths([1, 1]),
        discount=np.array([0.5, 0.5]),
        final_value=np.array([4.0, 4.0]),
    )
    found = fitted_q(
        log,
        np.ones((2, 1)),
        lambda rows: (np.ones((rows.size, 1, 1)), np.ones((rows.size, 1))),
        model=LinearRegression(fit_intercept=False),
        iterations=2,
    )
    np.testing.assert_allclose(found.logged_value, [3.0, 3.0])
    assert offline_eval.value(offline_eval.REGISTRY["seq_dr"].contributions(found)) == pytest.approx(3.0)


@pytest.mark.filterwarnings("ignore:fitted Q evaluation has not settled")
def test_lightgbm_and_networks_serve_as_models() -> None:
    """Predictions of 150 users' returns correlate with the exact ones."""
    q, _ = exact()
    drawn = draw(150)
    log, features, target = as_log(drawn)
    for model in ("lightgbm", "ridge", TorchRegressor(hidden=(16,), steps=80)):
        found = fitted_q(log, features, target, model=model, iterations=2, folds=2)
        assert np.corrcoef(found.logged_value, q[drawn.state, drawn.action])[0, 1] > 0.8, model


def test_no_iteration_is_refused() -> None:
    log, features, target = as_log(draw(4))
    with pytest.raises(ConfigError, match="iterations is 0"):
        fitted_q(log, features, target, iterations=0)


def policy_of(table: np.ndarray) -> Any:
    """A policy of the contract with these action probabilities by one-hot state."""

    class Tabular:
        action_spec = ActionSpec("discrete", choices=ACTIONS)

        def log_prob(self, observation: Observation, action: torch.Tensor) -> torch.Tensor:
            return torch.log(torch.tensor(table, dtype=torch.float32))[observation.features.argmax(1), action]

    return Tabular()


def as_transitions(drawn: Drawn) -> Transitions:
    n, eye = drawn.state.size, torch.eye(STATES)
    never = torch.zeros(n, dtype=torch.bool)
    return Transitions(
        Observation(features=eye[drawn.state]),
        torch.as_tensor(drawn.action),
        torch.tensor(REWARD[drawn.state, drawn.action], dtype=torch.float32)[:, None],
        Observation(features=eye[drawn.following]),
        torch.as_tensor(drawn.left),
        never,
        never,
    )


def test_networks_find_the_values_of_a_discrete_process() -> None:
    q, v = exact()
    drawn = draw(800)
    config = FQEConfig(hidden=(32,), batch=128, steps=250, learning_rate=1e-2, renew_every=16)
    found = fqe(
        InMemory(as_transitions(drawn)),
        policy_of(TARGET),
        np.repeat(np.arange(800), drawn.lengths),
        signal=Signal("reward", discount_within=DISCOUNT),
        config=config,
    )
    assert np.abs(found.logged_value - q[drawn.state, drawn.action]).mean() < 0.12
    assert np.abs(found.target_value - v[drawn.state]).mean() < 0.1
    assert np.abs(found.next_value - np.where(drawn.left, 0.0, v[drawn.following])).mean() < 0.1
    log = found.into(as_log(drawn)[0])
    assert offline_eval.value(offline_eval.REGISTRY["seq_dr"].contributions(log)) == pytest.approx(v.mean(), abs=0.2)


def as_column(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float32)[:, None]


class Line:
    """Actions -0.4 s with deviation .3 on a line."""

    action_spec = ActionSpec("continuous", (1,), low=-3.0, high=3.0)

    def act(self, observation: Observation, streams: TensorStreams, *, step: Any = 0, deterministic: bool = False) -> Action:
        mean = -0.4 * observation.features
        if deterministic:
            return Action(mean)
        return Action(mean + 0.3 * streams.normal(observation.user, step, Purpose.EXPLORATION, (1,)))


def test_networks_find_the_values_of_a_linear_quadratic_process() -> None:
    """s' = .7 s + a + noise(.1), r = -(s^2 + a^2 / 2), discount .6 within and .3 across: v(s) = -(p s^2 + c) in closed form."""
    rng = np.random.default_rng(0)
    n = 4000
    state = rng.uniform(-1.5, 1.5, n)
    action = -0.4 * state + rng.normal(0, 0.6, n)
    ends = rng.random(n) < 0.25
    following = 0.7 * state + action + rng.normal(0, 0.1, n)
    user = torch.arange(n)
    never = torch.zeros(n, dtype=torch.bool)
    batch = Transitions(
        Observation(features=as_column(state), user=user),
        as_column(action),
        as_column(-(state**2 + 0.5 * action**2)),
        Observation(features=as_column(following), user=user),
        *(never, never, torch.as_tensor(ends)),
    )
    discount = 0.75 * 0.6 + 0.25 * 0.3
    p = (1 + 0.5 * 0.16) / (1 - discount * 0.09)
    c = (0.5 * 0.09 + discount * p * (0.09 + 0.01)) / (1 - discount)
    config = FQEConfig(hidden=(32,), batch=128, steps=300, learning_rate=1e-2, renew_every=25, draws=2)
    signal = Signal("reward", discount_within=0.6, discount_across=0.3)
    found = fqe(InMemory(batch), Line(), np.arange(n), signal=signal, config=config)  # type: ignore[arg-type]
    inner = np.abs(state) < 1.2
    assert np.abs(found.target_value + p * state**2 + c)[inner].mean() < 0.12


def test_networks_read_slates_by_position() -> None:
    """One step, slates of two out of four items, the first position worth twice: E_pi r over all twelve slates."""
    slates = torch.tensor(list(itertools.permutations(range(4), 2)))
    worth = torch.tensor([0.1, 0.9, 0.4, 0.6])
    n = 1200
    chosen = slates[torch.arange(n) % 12]
    user = torch.arange(n)
    observation = Observation(features=torch.ones(n, 1), user=user)
    ended = torch.ones(n, dtype=torch.bool)
    reward = (2 * worth[chosen[:, 0]] + worth[chosen[:, 1]])[:, None]
    batch = Transitions(observation, chosen, reward, observation, ended, torch.zeros_like(ended), ended)
    policy = ItemPolicy(TableScores(torch.tensor([0.5, 1.0, -1.0, 0.0])), item_spec(4, 2))
    chance = policy.log_prob(Observation(user=torch.arange(12)), slates).exp()
    truth = float((chance * (2 * worth[slates[:, 0]] + worth[slates[:, 1]])).sum())
    config = FQEConfig(hidden=(), batch=64, steps=250, learning_rate=3e-2, draws=2)
    found = fqe(InMemory(batch), policy, user.numpy(), signal=Signal("reward"), config=config)
    np.testing.assert_allclose(found.logged_value, reward[:, 0], atol=0.02)
    # 1,200 rows x 8 drawn slates: deviation of the mean below .006
    assert found.target_value.mean() == pytest.approx(truth, abs=0.03)
    assert np.all(found.next_value == 0.0)


def features_of(observation: Observation) -> torch.Tensor:
    return observation.features


def linear_value() -> ActionValue:
    """q(s, a) = s + 10 a, written into the weights."""
    value = ActionValue(1, ActionFeatures(ActionSpec("discrete", choices=2)), (), seed=0)
    with torch.no_grad():
        value.body[0].weight.copy_(torch.tensor([[1.0, 0.0, 10.0]]))
    return value


def test_targets_by_hand() -> None:
    class Coin:
        action_spec = ActionSpec("discrete", choices=2)

        def log_prob(self, observation: Observation, action: torch.Tensor) -> torch.Tensor:
            return torch.where(action == 1, math.log(0.3), math.log(0.7))

        def act(self, observation: Observation, streams: Any, *, step: Any = 0, deterministic: bool = False) -> Action:
            return Action(torch.ones(len(observation), dtype=torch.int64))

    features = torch.tensor([[1.0], [2.0], [3.0]])
    batch = Transitions(
        Observation(features=features),
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([[5.0, 1.0], [5.0, 1.0], [5.0, 1.0]]),
        Observation(features=features),
        torch.tensor([False, False, True]),
        torch.tensor([False, True, False]),
        torch.tensor([False, True, True]),
    )
    signal = Signal("reward", discount_within=0.5, discount_across=0.1)
    asked = Question(Coin(), signal, 1, features_of, FQEConfig())  # type: ignore[arg-type]
    found = asked.backup(linear_value(), batch, TensorStreams(0), 0, scale=2.0)
    torch.testing.assert_close(found, torch.tensor([0.5 + 0.5 * (1 + 3), 0.5 + 0.1 * (2 + 3), 0.5]))
    assert asked.known(batch).tolist() == [True, False, True]
    greedy = Question(Coin(), signal, 1, features_of, FQEConfig(deterministic=True, truncated="bootstrap"))  # type: ignore[arg-type]
    torch.testing.assert_close(greedy.backup(linear_value(), batch, TensorStreams(0), 0), torch.tensor([6.5, 2.2, 1.0]))
    assert greedy.known(batch).all()


def test_equal_seeds_give_equal_values_and_a_user_never_teaches_its_own() -> None:
    drawn = draw(40)
    batch, users = as_transitions(drawn), np.repeat(np.arange(40), drawn.lengths)
    config = FQEConfig(hidden=(8,), steps=20, batch=32)
    signal = Signal("reward", discount_within=DISCOUNT)
    first, again = (fqe(InMemory(batch), policy_of(TARGET), users, signal=signal, config=config) for _ in range(2))
    np.testing.assert_array_equal(first.target_value, again.target_value)
    mine = torch.as_tensor(users == 3)
    loud = batch.with_reward(torch.where(mine[:, None], batch.reward.square().mean().sqrt(), batch.reward))
    other = fqe(InMemory(loud), policy_of(TARGET), users, signal=signal, config=config)
    np.testing.assert_array_equal(other.target_value[mine.numpy()], first.target_value[mine.numpy()])
    assert not np.array_equal(other.target_value, first.target_value)


def test_a_logged_buffer_and_an_item_policy_fit_as_they_are() -> None:
    buffer = small.buffer("item")
    n = len(buffer)
    policy = ItemPolicy(TableScores(torch.linspace(-1, 1, small.N_ITEMS)), item_spec(small.N_ITEMS))
    config = FQEConfig(hidden=(8,), steps=30, batch=32)
    signal = Signal("long_view", discount_within=0.5, discount_across=0.5)
    found = fqe(
        buffer, policy, buffer.user.numpy(), signal=signal, encode=lambda o: o.clock, item_vectors=small.item_vectors(), config=config
    )
    for values in (found.logged_value, found.target_value, found.next_value):
        assert values.shape == (n,)
        assert np.isfinite(values).all()
    assert np.all(found.next_value[~buffer.has_next.numpy()] == 0.0)
    in_memory = fqe(
        InMemory(buffer.gather(torch.arange(n))), policy, buffer.user.numpy(), signal=signal, encode=lambda o: o.clock, config=config
    )
    assert in_memory.logged_value.shape == (n,)


def test_what_networks_cannot_take_is_refused() -> None:
    batch = as_transitions(draw(4))
    signal = Signal("reward")
    with pytest.raises(DataError, match=re.escape("cluster has shape (3,) for")):
        fqe(InMemory(batch), policy_of(TARGET), np.zeros(3, dtype=int), signal=signal)
    bare = InMemory(
        Transitions(
            Observation(user=torch.arange(len(batch))),
            *(getattr(batch, f) for f in ("action", "reward")),
            batch.next_observation,
            batch.terminated,
            batch.truncated,
            batch.session_end,
        )
    )
    with pytest.raises(DataError, match="observations hold no features"):
        fqe(bare, policy_of(TARGET), np.arange(len(batch)), signal=signal, config=FQEConfig(steps=1))
    with pytest.raises(ConfigError, match="texts have no action features"):
        ActionFeatures(ActionSpec("text", (3,), choices=5))
    with pytest.raises(ConfigError, match="draws is 0"):
        FQEConfig(draws=0)


def test_large_catalogues_get_learned_or_given_vectors() -> None:
    learned = ActionFeatures(ActionSpec("item", choices=500))
    assert learned(torch.tensor([3, 499])).shape == (2, 16)
    assert any(p.requires_grad for p in learned.parameters())
    given = ActionFeatures(ActionSpec("slate", (3,), choices=500), torch.ones(500, 4))
    assert given(torch.zeros(7, 3, dtype=torch.int64)).shape == (7, 12)
    assert not any(p.requires_grad for p in given.parameters())
    vector = ActionFeatures(ActionSpec("continuous", (2,), low=0.0, high=4.0))
    torch.testing.assert_close(vector(torch.tensor([[0.0, 4.0], [2.0, 1.0]])), torch.tensor([[-1.0, 1.0], [0.0, -0.5]]))
