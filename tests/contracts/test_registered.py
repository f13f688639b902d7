"""Every registered implementation passes the suite of its contract."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import offline_eval
import recrl_datasets as rd
import simulators
from recrl.algorithms import REGISTRY as ALGORITHMS
from recrl.checks import check_algorithm, check_estimator, check_policy, check_sampler, check_store, check_world
from recrl.core.contracts import ActionSpec
from recrl.policies import REGISTRY as POLICIES
from recrl.policies.clipped import ClippedGaussianPolicy
from recrl.policies.discrete import DiscretePolicy
from recrl.policies.encoders import EncoderConfig
from recrl.policies.gaussian import GaussianPolicy
from recrl.policies.generated import GeneratedConfig, GeneratedPolicy
from recrl.policies.guarded import GuardedConfig, GuardedPolicy
from recrl.policies.items import ItemPolicy, QueryScores, SoftmaxScores, TableScores, item_spec, popularity_policy, random_policy
from recrl.policies.two_stage import TwoStagePolicy
from recrl.policies.vector import ActorConfig, VectorPolicy
from recrl.replay.samplers import UniformSampler
from recrl.replay.session_buffer import SessionBuffer
from recrl.replay.sessions import LoggedSessions, SessionSampler
from tests.support import small

VECTORS = ("embedding", "fusion_weights", "continuous")
SUPPORTED = {
    "bc": ("item", "slate", "discrete", *VECTORS),
    **dict.fromkeys(("td3", "td3_bc", "auro", "rlur", "oac", "escp", "prefrec"), VECTORS),
    # two kinds of vectors stand for the three (test_support_grid.py tries each)
    **dict.fromkeys(("ddpg", "sac", "awac", "iql", "cql", "bcq"), ("embedding", "continuous")),
    "tscac": ("item", "slate", "discrete", *VECTORS),
    "tscac_ddpg": VECTORS,
    # the actors are those of tscac: two kinds stand for the six (test_support_grid.py tries each)
    **dict.fromkeys(("rcpo", "pareto", "joint_critic"), ("item", "continuous")),
}
GRID = [(name, kind) for name in ALGORITHMS for kind in SUPPORTED[name]]
GRU = ActorConfig(EncoderConfig("gru", history=5, width=8), hidden=(16,), exploration=0.5)
TRANSFORMER = ActorConfig(EncoderConfig("transformer", history=5, width=8, heads=2), hidden=(16,), exploration=1.5)


def observation(pool: bool = False):
    """One observation for each of ten users."""
    seen = small.buffer("item").observation(torch.arange(10) * 8 + 3)
    listed = torch.stack([torch.randperm(small.N_ITEMS, generator=torch.Generator().manual_seed(k))[:6] for k in range(10)])
    listed[:, 2] = -1
    return replace(seen, candidates=listed) if pool else seen


def policies():
    """Every kind of policy, by name."""
    vectors = small.item_vectors()
    query = VectorPolicy(small.task("embedding").action_spec, ActorConfig(), vectors, seed=3)
    squashed = GaussianPolicy(small.task("embedding").action_spec, GRU, vectors, seed=3)
    softmax, attentive = (SoftmaxScores(c, vectors, torch.zeros(small.N_ITEMS), seed=4) for c in (ActorConfig(), TRANSFORMER))
    slate, one = item_spec(small.N_ITEMS, 3), ActionSpec("continuous", (1,), low=0.0, high=10.0)
    two, discrete = small.task("continuous").action_spec, small.task("discrete").action_spec
    return {
        "vector": VectorPolicy(two, ActorConfig(), vectors, seed=1),
        "vector, one component": VectorPolicy(one, TRANSFORMER, vectors, seed=1),
        "gaussian": GaussianPolicy(two, ActorConfig(), vectors, seed=1),
        "gaussian, one component": GaussianPolicy(one, TRANSFORMER, vectors, seed=1),
        "clipped": ClippedGaussianPolicy(two, GRU, vectors, seed=1),
        "clipped, one component": ClippedGaussianPolicy(one, TRANSFORMER, vectors, seed=1),
        "generated": GeneratedPolicy(two, GeneratedConfig(), vectors, seed=1),
        "guarded": GuardedPolicy(two, GuardedConfig(EncoderConfig(abstraction=4), step=0.2), vectors, seed=1),
        "discrete": DiscretePolicy(discrete, ActorConfig(), vectors, seed=1),
        "discrete gru": DiscretePolicy(discrete, GRU, vectors, seed=1),
        "random": random_policy(item_spec(small.N_ITEMS)),
        "popularity slate": popularity_policy(torch.arange(small.N_ITEMS), slate),
        "popularity slate from a pool": popularity_policy(torch.arange(small.N_ITEMS), item_spec(small.N_ITEMS, 2, pool=True)),
        "query": ItemPolicy(QueryScores(query), item_spec(small.N_ITEMS), 0.2),
        "query slate": ItemPolicy(QueryScores(query), slate, 0.2),
        "squashed query from a pool": ItemPolicy(QueryScores(squashed), item_spec(small.N_ITEMS, pool=True), 0.2),
        "softmax": ItemPolicy(softmax, item_spec(small.N_ITEMS)),
        "softmax slate from a pool": ItemPolicy(attentive, item_spec(small.N_ITEMS, 3, pool=True)),
        "table": ItemPolicy(TableScores(torch.arange(small.N_ITEMS)), item_spec(small.N_ITEMS), 2.0),
        "two stages": TwoStagePolicy(ItemPolicy(QueryScores(query), item_spec(small.N_ITEMS)), random_policy(item_spec(small.N_ITEMS)), 4),
    }


@pytest.mark.parametrize("name", list(policies()))
def test_policies(name):
    check_policy(policies()[name], observation(pool="pool" in name))


def test_every_policy_kind_is_covered():
    assert {p.kind for p in policies().values()} == set(POLICIES)


@pytest.mark.parametrize(("name", "kind"), GRID)
def test_algorithms(name, kind):
    learner, task = ALGORITHMS[name], small.task(kind)
    check_algorithm(lambda seed: learner(learner.config_type(), task, seed), small.buffer(kind).gather(torch.arange(10) * 8 + 3))


@pytest.mark.parametrize(
    ("name", "kind", "actor"),
    [("bc", "slate", GRU), ("bc", "continuous", TRANSFORMER), ("td3", "embedding", GRU), ("td3_bc", "continuous", TRANSFORMER)],
    ids=["bc-slate-gru", "bc-continuous-transformer", "td3-embedding-gru", "td3_bc-continuous-transformer"],
)
def test_algorithms_learn_their_encoder(name, kind, actor):
    learner, task = ALGORITHMS[name], small.task(kind)
    options = replace(learner.config_type(), actor=actor, **({"spread": "learned"} if name == "bc" else {}))
    batch = small.buffer(kind).gather(torch.arange(10) * 8 + 3)
    check_algorithm(lambda seed: learner(options, task, seed), batch)
    trained, fresh = (learner(options, task, 0) for _ in range(2))
    for _ in range(3):
        trained.update(batch)
    before = dict(fresh.policy().named_parameters())
    stuck = [n for n, p in trained.policy().named_parameters() if torch.equal(p, before[n]) and not n.endswith("key.bias")]
    assert not stuck


def samplers():
    """Every sampler, by name."""
    log, buffer = small.small_log(), small.buffer("item")
    collected = SessionBuffer(200)
    trajectories = LoggedSessions(buffer, log, "user")
    rows = trajectories.gather(np.arange(12), np.zeros(12, dtype=np.int64), np.full(12, 8))
    for k in range(7):
        # the users of the log side by side, one request after the other
        collected.add(buffer.gather(rows.index[k::8]))
    return {
        "uniform": UniformSampler(buffer, torch.arange(90), seed=1),
        "sessions": SessionSampler(LoggedSessions(buffer, log), seed=1),
        "users": SessionSampler(trajectories, seed=1),
        "windows": SessionSampler(trajectories, seed=1, min_length=3, max_length=3),
        "collected sessions": SessionSampler(collected, seed=1),
    }


@pytest.mark.parametrize("name", list(samplers()))
def test_samplers(name):
    check_sampler(samplers()[name])


@pytest.mark.parametrize("name", list(simulators.REGISTRY))
def test_worlds(name):
    world = simulators.REGISTRY[name]()
    check_world(world, torch.arange(6))


@pytest.mark.parametrize("name", list(offline_eval.REGISTRY))
def test_estimators(name):
    check_estimator(offline_eval.REGISTRY[name])


@pytest.mark.filterwarnings("ignore::recrl_datasets.RowsAsClustersWarning")
@pytest.mark.parametrize("name", [n for n, s in rd.REGISTRY.items() if not s.needs_root])
def test_stores(name, tmp_path):
    if name.startswith("open-bandit") and find_spec("obp") is None:
        pytest.skip("SKIPPED: OBP's sample is absent; pip install --no-deps --ignore-requires-python obp==0.5.7")
    check_store(rd.prepare(name, stores=tmp_path))


@pytest.mark.kuairand
def test_the_kuairand_store(kuairand_root, tmp_path):
    check_store(rd.prepare("kuairand-pure", root=kuairand_root, stores=tmp_path))
