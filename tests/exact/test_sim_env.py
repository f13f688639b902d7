"""The world behind Gymnasium's interfaces."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import simulators
from recrl.core.errors import ConfigError, ContractError
from recrl.core.objective import Constraint, Objective, Signal
from simulators.env import RetentionEnv, RetentionVectorEnv
from simulators.toy import TOY_CONFIG, toy_world


@pytest.mark.parametrize("name", list(simulators.REGISTRY))
def test_single_environment_passes_gymnasiums_checker(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # the checker dislikes unbounded observations
        warnings.filterwarnings("ignore", message=".*Box observation space")
        warnings.filterwarnings("ignore", message=".*alternative render modes")
        check_env(RetentionEnv(simulators.REGISTRY[name]()))


def test_single_episode_ends_and_then_asks_for_a_reset():
    env = RetentionEnv(toy_world(replace(TOY_CONFIG, horizon_days=3)))
    with pytest.raises(ContractError, match="no user"):
        env.step(np.zeros(7))
    env.reset(seed=1)
    env.action_space.seed(0)
    for _ in range(500):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert reward == pytest.approx(float(info["reward_vector"][0]))
        assert info["truth"]["probabilities"].shape == (6, 7)
        if terminated or truncated:
            break
    assert terminated or truncated
    with pytest.raises(ContractError, match="no user"):
        env.step(np.zeros(7))
    first, _ = env.reset()
    second, _ = env.reset()
    assert not np.array_equal(first, second), "each reset brings another user"


def rollout(env: VectorEnv, steps: int = 60, seed: int = 7):
    env.action_space.seed(0)
    observation, _ = env.reset(seed=seed)
    out = [(observation,)]
    for _ in range(steps):
        out.append(env.step(env.action_space.sample()))
    return out


def test_vector_environment_keeps_its_spaces_and_repeats_with_its_seed():
    env = RetentionVectorEnv(toy_world(), 33)
    assert isinstance(env, VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    one, two, other = rollout(env), rollout(env), rollout(env, seed=8)
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a[:4], b[:4], strict=True):
            assert np.array_equal(x, y)
    assert not np.array_equal(one[0][0], other[0][0])
    for step in one[1:]:
        assert env.observation_space.contains(step[0])
        assert step[1].shape == step[2].shape == step[3].shape == (33,)
        assert step[2].dtype == step[3].dtype == bool


def test_finished_users_hand_over_to_new_ones_and_leave_their_true_last_observation():
    world = toy_world(replace(TOY_CONFIG, horizon_days=4))
    env = RetentionVectorEnv(world, 40)
    env.action_space.seed(0)
    env.reset(seed=3)
    over = 0
    for _ in range(60):
        before, action = env.state, env.action_space.sample()
        expected, outcome = world.transition(before, action, env._streams)
        observation, _, terminated, truncated, infos = env.step(action)
        done = terminated | truncated
        assert np.array_equal(done, (outcome.terminated | outcome.truncated).numpy())
        features = world.observe(expected).features.numpy()
        assert np.array_equal(observation[~done], features[~done])
        if done.any():
            over += int(done.sum())
            assert np.array_equal(infos["_final_obs"], done)
            assert np.array_equal(np.stack(infos["final_obs"][done]), features[done])
            fresh = env.state[torch.from_numpy(done)]
            assert not fresh.counter.any()
            assert fresh.alive.all()
            assert not np.isin(fresh.uid.numpy(), before.uid.numpy()).any(), "a user never lives twice"
            assert np.array_equal(observation[done], world.observe(env.state).features.numpy()[done])
        else:
            assert "final_obs" not in infos
    assert over > 40


def test_a_slot_does_not_depend_on_the_number_of_slots_until_its_first_end():
    world = toy_world()
    action = np.zeros((10, 7), np.float32)
    wide, narrow = RetentionVectorEnv(world, 10), RetentionVectorEnv(world, 4)
    a, _ = wide.reset(seed=5)
    b, _ = narrow.reset(seed=5)
    assert np.array_equal(a[:4], b)
    for _ in range(5):
        a, b = wide.step(action)[0], narrow.step(action[:4])[0]
    same = (wide.state.session[:4] > -1).numpy() & (wide.state.uid[:4] == narrow.state.uid).numpy()
    assert same.sum() >= 2
    assert np.array_equal(a[:4][same], b[same])


def test_reward_is_the_weighted_sum_of_the_objectives_signals():
    objective = Objective(main=Signal("long_view", weight=2.0), constraints=(Constraint(Signal("return", weight=0.5), "at_least"),))
    env = RetentionVectorEnv(toy_world(objective=objective), 20)
    for step in rollout(env, 20)[1:]:
        np.testing.assert_allclose(step[1], step[4]["reward_vector"] @ [2.0, 0.5], rtol=1e-6)


def test_gymnasiums_own_wrapper_works_on_it():
    env = RecordEpisodeStatistics(RetentionVectorEnv(toy_world(replace(TOY_CONFIG, horizon_days=3)), 16))
    lengths = [step[4]["episode"]["l"][step[4]["_episode"]] for step in rollout(env, 60)[1:] if "episode" in step[4]]
    assert sum(len(x) for x in lengths) > 16


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="num_envs is 0"):
        RetentionVectorEnv(toy_world(), 0)
    env = RetentionVectorEnv(toy_world(), 2)
    with pytest.raises(ContractError, match="not reset"):
        env.step(np.zeros((2, 7)))
    env.reset(seed=0)
    with pytest.raises(ContractError, match="action of shape"):
        env.step(np.zeros((3, 7)))
