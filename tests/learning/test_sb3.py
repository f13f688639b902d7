"""Stable-Baselines3 trains on the environments unmodified: through its own vectorisation, and on users who share one tensor step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasiums_check

from recrl.core.errors import ConfigError
from recrl.core.objective import Objective, Signal
from recrl.core.torch.streams import TensorStreams
from simulators.env import RetentionEnv
from simulators.lives import live
from simulators.toy import TOY_CONFIG, toy_world

stable_baselines3 = pytest.importorskip("stable_baselines3")
from stable_baselines3 import PPO, TD3  # noqa: E402
from stable_baselines3.common.env_checker import check_env  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

from simulators.sb3 import UsersVecEnv  # noqa: E402

CONFIG = replace(TOY_CONFIG, horizon_days=4, truth=False)


def world(signal: str = "long_view", config=CONFIG):
    return toy_world(config, Objective(Signal(signal)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["fusion_weights", "embedding", "slate", "item"])
def test_its_own_checker_is_content(kind):
    config = replace(CONFIG, action_kind=kind)
    check_env(RetentionEnv(world(config=config)))
    gymnasiums_check(RetentionEnv(world(config=config)))


def test_ppo_trains_through_dummy_vec_env():
    """A hundred and twenty-eight requests of four users, each an environment of its own."""
    env = DummyVecEnv([lambda: RetentionEnv(world("return")) for _ in range(4)])
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(128)
    assert model.num_timesteps == 128
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    action, _ = model.predict(env.reset(), deterministic=True)
    assert action.shape == (4, 7)
    assert np.isfinite(action).all()


def test_users_side_by_side_tell_where_lives_end():
    """A life that the horizon cuts is truncated, and its last observation is not the next user's first."""
    env = UsersVecEnv(world(), 16)
    env.seed(5)
    first, actions = env.reset(), np.zeros((16, 7), np.float32)
    ended = cut = 0
    for _ in range(50):
        seen, reward, done, infos = env.step(actions)
        assert reward.dtype == np.float32
        assert [bool(info) for info in infos] == done.tolist()
        for k in np.flatnonzero(done):
            assert not np.array_equal(infos[k]["terminal_observation"], seen[k])
            cut += infos[k]["TimeLimit.truncated"]
        ended += int(done.sum())
    assert 0 < cut <= ended
    env.seed(5)
    assert np.array_equal(env.reset(), first)
    assert env.get_attr("num_envs", [0, 1]) == [16, 16]
    assert not any(env.env_is_wrapped(object))
    with pytest.raises(ConfigError, match="share one environment"):
        env.set_attr("world", None)


def test_off_policy_learners_train_too():
    model = TD3(
        "MlpPolicy", UsersVecEnv(world(), 8), learning_starts=64, batch_size=32, train_freq=1, gradient_steps=1, seed=0, device="cpu"
    )
    model.learn(120)
    assert model.replay_buffer.size() * 8 >= 120


def test_lives_by_vectors_are_the_lives_of_static_policies():
    """All vectors at once, the same users with the same luck, bit for bit as one after the other."""
    from recrl.policies.static import static_policy
    from simulators.lives import live_by_vectors

    toy = world()
    vectors = torch.tensor([[0.0, 1, 0, 0, 0, 0, -1], [0.5, -0.5, 0, 0, 0, 0, 0]]) * 0.9
    users = toy.population(14, 2)
    together = live_by_vectors(toy, vectors, users, TensorStreams(4))
    for vector, found in zip(vectors, together, strict=True):
        policy = static_policy(toy.action_spec, vector, torch.zeros(40, 2))
        alone = live(toy, policy, users, TensorStreams(4), deterministic=True, tile=7)
        # tanh of a rounded arc tangent is the weight but for its last bit, which ranks the same
        assert np.array_equal(alone.requests, found.requests)
        assert np.array_equal(alone.next_day, found.next_day)
