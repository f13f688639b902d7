"""Every registered implementation passes the suite of its contract."""

from __future__ import annotations

import pytest
import torch

import offline_eval
import recrl_datasets as rd
import simulators
from recrl.algorithms import REGISTRY as ALGORITHMS
from recrl.checks import check_algorithm, check_estimator, check_policy, check_sampler, check_store, check_world
from recrl.policies import REGISTRY as POLICIES
from recrl.policies.items import ItemPolicy, QueryScores, SoftmaxScores, TableScores, item_spec, popularity_policy, random_policy
from recrl.policies.vector import ActorConfig, VectorPolicy
from recrl.replay.samplers import UniformSampler
from tests.support import small

BATCH = torch.arange(0, 90, 9)
VECTORS = ("embedding", "fusion_weights", "continuous")
SUPPORTED = {"bc": ("item", *VECTORS), "td3": VECTORS, "td3_bc": VECTORS}
GRID = [(name, kind) for name in ALGORITHMS for kind in SUPPORTED[name]]


def observation():
    """One observation for each of ten users."""
    return small.buffer("item").observation(torch.arange(10) * 8 + 3)


def policies():
    """Every kind of policy, by name."""
    query = VectorPolicy(small.task("embedding").action_spec, ActorConfig(), small.item_vectors(), seed=3)
    softmax = SoftmaxScores(ActorConfig(), small.item_vectors(), torch.zeros(small.N_ITEMS), seed=4)
    pool = item_spec(small.N_ITEMS, 3)
    return {
        "vector": VectorPolicy(small.task("continuous").action_spec, ActorConfig(), small.item_vectors(), seed=1),
        "random": random_policy(item_spec(small.N_ITEMS)),
        "popularity slate": popularity_policy(torch.arange(small.N_ITEMS), pool),
        "query": ItemPolicy(QueryScores(query), item_spec(small.N_ITEMS), 0.2),
        "query slate": ItemPolicy(QueryScores(query), pool, 0.2),
        "softmax": ItemPolicy(softmax, item_spec(small.N_ITEMS)),
        "table": ItemPolicy(TableScores(torch.arange(small.N_ITEMS)), item_spec(small.N_ITEMS), 2.0),
    }


@pytest.mark.parametrize("name", list(policies()))
def test_policies(name):
    check_policy(policies()[name], observation())


def test_every_policy_kind_is_covered():
    assert {p.kind for p in policies().values()} == set(POLICIES)


@pytest.mark.parametrize(("name", "kind"), GRID)
def test_algorithms(name, kind):
    learner, task = ALGORITHMS[name], small.task(kind)
    check_algorithm(lambda seed: learner(learner.config_type(), task, seed), small.buffer(kind).gather(torch.arange(10) * 8 + 3))


def test_samplers():
    check_sampler(UniformSampler(small.buffer("item"), torch.arange(90), seed=1))


@pytest.mark.parametrize("name", list(simulators.REGISTRY))
def test_worlds(name):
    world = simulators.REGISTRY[name]()
    check_world(world, torch.arange(6))


@pytest.mark.parametrize("name", list(offline_eval.REGISTRY))
def test_estimators(name):
    check_estimator(offline_eval.REGISTRY[name])


@pytest.mark.parametrize("name", [n for n, s in rd.REGISTRY.items() if not s.needs_root])
def test_stores(name, tmp_path):
    check_store(rd.prepare(name, stores=tmp_path))


@pytest.mark.kuairand
def test_the_kuairand_store(kuairand_root, tmp_path):
    check_store(rd.prepare("kuairand-pure", root=kuairand_root, stores=tmp_path))
