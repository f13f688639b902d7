"""AURO and its baselines learn tiny tasks whose answer is known, under a drift that they are not told; and go on exactly after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from recrl.algorithms.abstraction import Abstraction, AbstractionConfig, bin_means, distance_loss
from recrl.algorithms.adam import Adam
from recrl.algorithms.auro import AURO, AUROConfig, ExplorationConfig, abstraction_loss, value_bins
from recrl.algorithms.escp import ESCP, ESCPConfig
from recrl.algorithms.oac import OAC, OACConfig
from recrl.algorithms.parity.auro import ShippedAURO, ShippedAUROConfig
from recrl.algorithms.probes import linear_r2, value_correlation, value_silhouette
from recrl.algorithms.rlur import RLUR, RLURConfig
from recrl.algorithms.rnd import RND, RNDConfig
from recrl.algorithms.task import Task
from recrl.core.contracts import ActionSpec, Observation, Transitions
from recrl.core.objective import Constraint, Objective, Signal
from recrl.core.runs import RunFolder
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams
from recrl.policies.abstraction import AbstractedEncoder
from recrl.policies.encoders import EncoderConfig
from recrl.policies.networks import initialise, mlp
from recrl.policies.vector import ActorConfig
from recrl.replay.ring import RingBuffer
from recrl.replay.samplers import UniformSampler
from recrl.training.collect import WorldCollector
from recrl.training.online import OnlineConfig, train_online
from simulators.toy import TOY_CONFIG, toy_world

ACTOR = ActorConfig(EncoderConfig("flat", features=5), hidden=(32,), exploration=0.3)
NETS = {"actor": ACTOR, "critic_hidden": (32, 32), "actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
BANDIT = Objective(Signal("reward", discount_within=0.0, discount_across=0.0))
SPEC = ActionSpec("continuous", (2,))
PERIOD = 10


def seen(step: int, rows: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, 5) at ``step``, and the drift m in {-1, 1}: two numbers of the user, three that show m through noise."""
    draw = TensorStreams(0).normal(torch.arange(rows), step, Purpose.USERS, (5,)) * torch.tensor([1.0, 1.0, 0.3, 0.3, 0.3])
    m = 1.0 if TensorStreams(0).uniform(torch.tensor([0]), step // PERIOD, Purpose.DRIFT).item() < 0.5 else -1.0
    draw[:, 2:] += 0.5 * m
    return draw, torch.full((rows,), m)


def best(features: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """The first two numbers, turned round while m is negative."""
    return 0.8 * features[:, :2].clamp(-1, 1) * m.unsqueeze(1)


def learned(learner, steps: int = 150, updates: int = 3):
    """Act, be rewarded by the distance to what is best and by the drift itself, remember, learn."""
    streams, ring = TensorStreams(1), RingBuffer(64 * steps)
    sampler = UniformSampler(ring, None, 2)
    never = torch.zeros(64, dtype=torch.bool)
    for step in range(steps):
        features, m = seen(step)
        action = learner.collect_policy().act(Observation(features=features), streams, step=step)
        reward = m - (action.value - best(features, m)).square().sum(1)
        notes = {**action.notes, "environment": (m > 0).long()}
        following = Observation(features=seen(step + 1)[0])
        batch = Transitions(
            Observation(features=features), action.value, reward.unsqueeze(1), following, never, never, never, action.log_prob, notes=notes
        )
        learner.observe(batch)
        ring.add(batch)
        for k in range(updates):
            metrics = learner.update(sampler.sample(128, updates * step + k)).metrics
    assert all(torch.isfinite(torch.as_tensor(value)) for value in metrics.values())
    return metrics


def error(learner) -> float:
    """Mean squared distance to the best action on fresh users under both drifts; about .7 for no movement."""
    parts = [seen(step) for step in range(1_000, 1_100, PERIOD)]
    features, m = (torch.cat(part) for part in zip(*parts, strict=True))
    with torch.no_grad():
        return float((learner.policy().centre(Observation(features=features)) - best(features, m)).square().sum(1).mean())


def abstractions(learner) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Over fresh steps: phi averaged over the users of a step, and the drift; of a few users phi and value."""
    encoder = learner.policy().actor.encoder
    assert isinstance(encoder, AbstractedEncoder)
    means, drift, single = [], [], []
    with torch.no_grad():
        for step in range(2_000, 2_200, 5):
            features, m = seen(step)
            phi = encoder.phi(features)
            means.append(phi.mean(0))
            drift.append(m[0])
            single.append((phi[:8], features[:8]))
    phi, features = (torch.cat(part) for part in zip(*single, strict=True))
    return torch.stack(means), torch.stack(drift), phi, learner.values(Observation(features=features))


def test_auro_acts_well_under_drift_and_its_abstraction_tells_the_drift():
    # candidates are jittered as widely as the other learners' actions: nothing is random before
    wide, abstraction = ExplorationConfig(step=0.1, jitter=ACTOR.exploration), AbstractionConfig(size=4, hidden=(32,), every=1)
    learner = AURO(AUROConfig(**NETS, explore=wide, abstraction=abstraction), Task(SPEC, BANDIT), seed=0)
    untrained = abstractions(learner)
    metrics = learned(learner)
    assert error(learner) < 0.15
    means, drift, phi, value = abstractions(learner)
    assert linear_r2(means, drift) > 0.95
    assert value_correlation(phi, value) > max(0.5, value_correlation(untrained[2], value) + 0.1)
    assert value_silhouette(phi, value, bins=2) > max(0.0, value_silhouette(untrained[2], value, bins=2))
    assert 0.0 <= metrics["guard_kept"] <= 1.0
    assert metrics["guard_gain"] >= 0.0


def test_the_baselines_learn_the_same_task():
    options = {
        "oac": OAC(OACConfig(**NETS), Task(SPEC, BANDIT)),
        "escp": ESCP(ESCPConfig(**NETS, context=AbstractionConfig(size=4, hidden=(32,), loss="determinant", every=1)), Task(SPEC, BANDIT)),
        "rlur": RLUR(RLURConfig(**NETS, importance=0.5), Task(SPEC, BANDIT)),
    }
    for name, learner in options.items():
        metrics = learned(learner)
        assert error(learner) < 0.3, name
        assert ("abstraction_loss" in metrics) == (name == "escp")


def test_the_released_rules_learn_from_the_state_as_it_was_stored():
    config = ShippedAUROConfig(
        replace(ACTOR, exploration=0.1), (32, 32), AbstractionConfig(size=4, hidden=(32,)), critic_learning_rate=3e-3
    )
    learner, features = ShippedAURO(config, Task(SPEC, BANDIT)), seen(0)[0]
    action = learner.collect_policy().act(Observation(features=features), TensorStreams(0))
    metrics = learned(learner, steps=30)
    assert {"critic_loss", "actor_loss", "target_mean"} <= metrics.keys()
    # the encoder has moved on by the actor's loss, what was stored has not
    assert not torch.allclose(learner.policy().actor.encoder(Observation(features=features)), action.notes["z"], atol=1e-3)


def test_escp_pulls_environments_apart():
    """Two environments whose states differ by a little: their contexts end farther apart than an untrained phi has them."""
    learner = ESCP(ESCPConfig(**NETS, context=AbstractionConfig(size=4, hidden=(32,), loss="determinant", every=1)), Task(SPEC, BANDIT))

    def apart() -> float:
        encoder = learner.policy().actor.encoder
        parts = {m: [] for m in (-1.0, 1.0)}
        with torch.no_grad():
            for step in range(3_000, 3_200, PERIOD):
                features, m = seen(step)
                parts[float(m[0])].append(encoder.phi(features))
        one, other = (torch.cat(part) for part in parts.values())
        return float((one.mean(0) - other.mean(0)).norm() / torch.cat([one - one.mean(0), other - other.mean(0)]).norm(dim=1).mean())

    before = apart()
    learned(learner, steps=60)
    assert apart() > 2 * before


# ---------------------------------------------------------------- who trains phi


def chained(rows: int = 64):
    features = seen(0, rows)[0]
    none = torch.zeros(rows, dtype=torch.bool)
    return Transitions(
        Observation(features=features), features[:, :2].clamp(-1, 1), features[:, :1], Observation(features=features), none, none, none
    )


def moved(learner, batch) -> set[str]:
    before = {name: p.clone() for name, p in learner.policy().named_parameters()}
    learner.update(batch)
    return {
        name.split(".")[1] + "." + name.split(".")[2] for name, p in learner.policy().named_parameters() if not torch.equal(p, before[name])
    }


def test_phi_is_trained_by_its_loss_and_by_the_critics_and_not_by_the_actor():
    batch = chained()
    by_loss = AURO(AUROConfig(**{**NETS, "critic_learning_rate": 0.0, "actor_learning_rate": 0.0}), Task(SPEC, BANDIT))
    by_critics = AURO(AUROConfig(**{**NETS, "actor_learning_rate": 0.0}, abstraction=AbstractionConfig(loss="none")), Task(SPEC, BANDIT))
    by_actor = AURO(AUROConfig(**{**NETS, "critic_learning_rate": 0.0}, abstraction=AbstractionConfig(loss="none")), Task(SPEC, BANDIT))
    assert moved(by_loss, batch) == {"encoder.layers"} == moved(by_critics, batch)
    assert moved(by_actor, batch) == {"body.0", "body.2"}


def test_running_centroids_that_pass_a_tenth_of_the_gradient_collapse_and_those_that_pass_it_whole_do_not():
    draw = torch.Generator().manual_seed(0)
    value_of = mlp([10, 16, 1])
    initialise(value_of, 5)
    spreads = []
    for whole in (True, False):
        encoder = AbstractedEncoder(torch.nn.Identity(), 10, 4, (32,))
        initialise(encoder, 1)
        optimiser, centroids = Adam(encoder.layers.parameters(), 3e-3), None
        for _ in range(250):
            state = torch.randn(128, 10, generator=draw)
            value = (3.0 * value_of(state)).detach()[:, 0]
            phi = encoder.phi(state)
            if whole or centroids is None:
                loss, centroids = abstraction_loss(phi, value, previous=centroids, margin=2.0)
            else:
                labels = value_bins(value)
                now = 0.9 * centroids + 0.1 * bin_means(phi, labels, 4)[0]
                loss, centroids = distance_loss(phi, labels, now, 2.0), now.detach()
            optimiser.descend(loss)
        spreads.append(float(phi.detach().var(0).sum()))
        if whole:
            assert value_correlation(phi.detach(), value) > 0.5
    assert spreads[0] > 0.5
    assert spreads[1] < 0.1


def test_the_loss_of_the_abstraction_leaves_the_state_below_it_alone():
    encoder = AbstractedEncoder(torch.nn.Linear(5, 5), 5, 2, (8,))
    state = torch.randn(32, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    Abstraction(encoder, AbstractionConfig(size=2)).learn(state, state.detach()[:, 0])
    assert state.grad is None
    assert all(p.grad is None for p in encoder.base.parameters())


def test_without_an_abstraction_the_state_is_the_encoders_own():
    learner = AURO(AUROConfig(**NETS, abstraction=AbstractionConfig(size=0)), Task(SPEC, BANDIT))
    assert not isinstance(learner.policy().actor.encoder, AbstractedEncoder)
    assert "abstraction_loss" not in learner.update(chained()).metrics


def test_cloning_alone_stays_at_the_logged_actions():
    batch = chained(256)
    learner = AURO(AUROConfig(**NETS, cloning_alpha=1e-6), Task(SPEC, BANDIT))
    for _ in range(300):
        learner.update(batch)
    with torch.no_grad():
        assert (learner.policy().centre(batch.observation) - batch.action).square().mean() < 0.01


# ---------------------------------------------------------------- RLUR and RND


def test_rlur_values_retention_and_the_immediate_apart():
    """One state: retention -.3 at the session's end (discount 0 beyond), a like worth 2 now and hate worth -1, novelty left out."""
    rows, none = 32, torch.zeros(32, dtype=torch.bool)
    main = Signal("return", discount_within=1.0, discount_across=0.0)
    immediate = (Constraint(Signal("like", 2.0, 0.5, 0.5), "at_least"), Constraint(Signal("hate", 1.0, 0.5, 0.5), "at_most"))
    x = Observation(features=torch.ones(rows, 5))
    reward = torch.tensor([[-0.3, 1.0, 0.5]]).expand(rows, -1)
    batch = Transitions(x, torch.zeros(rows, 2), reward, x, none, none, ~none)
    fixed = {**NETS, "actor_learning_rate": 0.0, "tau": 0.2, "target_noise": 0.0, "critic_learning_rate": 1e-2}
    learner = RLUR(RLURConfig(**fixed, novelty_weight=0.0), Task(SPEC, Objective(main, immediate)))
    for _ in range(150):
        told = learner.update(batch).metrics
    # now: 2 * 1 - 1 * .5 = 1.5, and half of the same again and again
    assert float(told["target_mean"]) == pytest.approx(-0.3, abs=1e-5)
    assert float(told["immediate_target"]) == pytest.approx(3.0, abs=0.15)


def test_novelty_is_higher_where_nothing_was_learned_and_fades():
    task, none = Task(SPEC, BANDIT), torch.zeros(128, dtype=torch.bool)
    bonus = RND(RNDConfig(EncoderConfig("flat", features=5), hidden=(32,), decay=0.9), task, seed=0)
    rng = torch.Generator().manual_seed(0)
    old, new = (Observation(features=torch.randn(128, 5, generator=rng) * 0.3 + shift) for shift in (0.0, 3.0))
    batch = Transitions(old, torch.zeros(128, 2), torch.zeros(128, 1), old, none, none, none)
    errors = [float(bonus.update(batch).metrics["rnd_error"]) for _ in range(150)]
    assert errors[-1] < errors[0] / 5
    assert bonus.bonus(new).mean() > 5 * bonus.bonus(old).mean()
    changed = bonus.apply(batch)
    assert torch.allclose(changed.reward[:, 0], bonus.bonus(old))
    assert not batch.reward.any()
    twin = RND(bonus.config, task, seed=7)
    twin.load_state_dict(bonus.state_dict())
    assert torch.equal(twin.bonus(new), bonus.bonus(new))


# ---------------------------------------------------------------- kill and resume

LENGTH = OnlineConfig(steps=30, warmup=5, batch_size=32, log_every=5, checkpoint_every=10)


class StopError(Exception):
    pass


def trained(folder: Path, stop_at: int | None = None):
    objective = Objective(Signal("return", discount_within=1.0, discount_across=0.9))
    world = toy_world(TOY_CONFIG, objective)
    actor = ActorConfig(EncoderConfig("history", history=10), hidden=(16,))
    options = AUROConfig(
        actor=actor,
        critic_hidden=(16,),
        abstraction=AbstractionConfig(size=3, hidden=(8,), every=3),
        explore=ExplorationConfig(candidates=5, step=0.1),
    )
    task = Task(world.action_spec, objective, world.response.item_vectors)
    learner, novelty = AURO(options, task, seed=0), RND(RNDConfig(actor.encoder, hidden=(8,)), task, seed=0)
    run = RunFolder.create(folder, kind="train", config={}, seed=0)

    def stop(done: float, text: str) -> None:
        if stop_at is not None and round(done * LENGTH.steps) >= stop_at:
            raise StopError

    train_online(
        learner,
        WorldCollector(world, 8, seed=1),
        RingBuffer(150),
        LENGTH,
        run,
        stream="train",
        seed=2,
        transforms=[novelty],
        progress=stop,
    )
    newest = sorted((run.checkpoints / "train").glob("step-*"))[-1]
    rows = pq.read_table(run.path / "metrics" / "train").to_pylist()
    return load_file(newest / "tensors.safetensors"), sorted((r["step"], r["name"], r["value"]) for r in rows)


def test_weights_and_metrics_go_on_exactly_after_a_stop(tmp_path):
    whole = trained(tmp_path / "whole")
    with pytest.raises(StopError):
        trained(tmp_path / "cut", stop_at=15)
    cut = trained(tmp_path / "cut")
    assert cut[1] == whole[1]
    assert {"guard_gain", "abstraction_loss", "rnd_error"} <= {name for _, name, _ in whole[1]}
    assert cut[0].keys() == whole[0].keys()
    # guarded actions have no log-probabilities: the ring holds NaN there
    assert all(torch.allclose(cut[0][name], whole[0][name], rtol=0.0, atol=0.0, equal_nan=True) for name in whole[0])
