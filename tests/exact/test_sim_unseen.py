"""Users whom no log has shown, and tastes that turn, under each response model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recrl.core.errors import ConfigError
from recrl.core.streams import Streams
from recrl.core.torch.streams import TensorStreams
from simulators.boosted_response import BoostedResponse
from simulators.drift import DriftConfig
from simulators.past import PastEffect
from simulators.response import WIDTH, LatentResponse
from simulators.response_model import ResponseModel
from simulators.retention import RetentionLaw
from simulators.sequence_response import SequenceResponse
from simulators.toy import TOY_CONFIG, toy_response, toy_world
from simulators.world import RetentionWorld
from tests.support.lives import assert_same, live

USERS, ITEMS, H = 50, 40, 16
MODELS = ("latent", "sequence", "boosted")


def model_of(kind: str) -> ResponseModel:
    """Random weights; the sequence and the boosted model count the past."""
    generator, head = torch.Generator().manual_seed(1), toy_response()

    def draw(*shape: int, scale: float = 0.5) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    past = PastEffect(torch.tensor([4.5]), torch.full((7, 1), 0.3), torch.full((7,), 0.2), draw(7, 2, 2, 7))
    counts = torch.randint(0, 9, (USERS, 8), generator=generator).float()
    counts = past.settled(torch.cat([counts, counts[:, :1]], dim=1))
    if kind == "latent":
        return head
    if kind == "boosted":
        return BoostedResponse(
            draw(9, ITEMS + 1, WIDTH),
            draw(USERS + 1, WIDTH),
            torch.arange(USERS + 1) % 9,
            head.off_click,
            past,
            counts,
            head.watch,
        )
    gates = (draw(H, 3 * H, scale=H**-0.5), draw(3 * H, scale=0.1), draw(ITEMS + 1, 3 * H), draw(256, 3 * H))
    return SequenceResponse(head, *gates, draw(H), torch.cat([draw(USERS, H), counts], dim=1), draw(H, head.users.shape[1]), past)


def world_of(kind: str, drift: DriftConfig, **options) -> RetentionWorld:
    config = replace(TOY_CONFIG, action_kind="slate", pool_size=20, exclude_recent=6, drift=drift, **options)
    law = replace(RetentionLaw.published(), group_effects=(0.5, -0.5), group_names=("often", "seldom"))
    return RetentionWorld(config, model_of(kind), toy_world().leave, law, groups=torch.arange(USERS) % 2)


def first_request(world: RetentionWorld, users: torch.Tensor, day: float):
    streams = TensorStreams(3)
    state = world.initial_state(users, streams)
    state = replace(state, day=torch.full_like(state.day, day))
    slate = torch.arange(6).expand(len(users), -1).contiguous()
    return state, slate, world.transition(state, slate, streams)[1].truth["probabilities"]


@pytest.mark.parametrize("kind", MODELS)
def test_tastes_turn_under_every_model(kind):
    world, calm = (world_of(kind, DriftConfig(name, amplitude=a, fade=0.0)) for name, a in (("taste", 1.0), ("none", None)))
    users = torch.arange(48)
    state, slate, then = first_request(world, users, 9.5)
    logits = world.response.request_logits(state.user, state.memory, slate)
    vectors, items, loadings = world.response.tastes(state.user, state.memory, slate)
    turned = world.drift.turned(state.day, vectors)
    torch.testing.assert_close(turned.norm(dim=1), vectors.norm(dim=1))
    taste = torch.einsum("bd,bcd->bc", turned - vectors, items).unsqueeze(2) * loadings
    torch.testing.assert_close(then, world.response.marginals(logits[..., :7] + taste))
    assert float((then - first_request(calm, users, 9.5)[2]).abs().max()) > 0.01
    # on day 0 nothing has turned yet
    torch.testing.assert_close(first_request(world, users, 0.5)[2], first_request(calm, users, 0.5)[2])
    torch.testing.assert_close(first_request(world, users[5:12], 9.5)[2], then[5:12], rtol=0, atol=0)


def test_the_turned_vectors_are_those_the_log_odds_are_made_of():
    """A latent user with its vector turned is the user with the turned vector."""
    response = toy_response()
    rows, items = torch.arange(USERS), torch.arange(6).expand(USERS, -1)
    vectors, of_items, loadings = response.tastes(rows, torch.zeros(USERS, 0), items)
    users = response.users.clone()
    users[:-1, : response.dim] *= -1.0
    opposite = LatentResponse(users, response.items, response.intercepts, response.loadings, response.off_click)
    taste = (vectors.unsqueeze(1) * of_items).sum(2, keepdim=True) * loadings
    torch.testing.assert_close(response.logits(rows, items) - 2.0 * taste, opposite.logits(rows, items), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- users never logged


@pytest.mark.parametrize("kind", MODELS)
def test_a_share_of_the_population_was_never_logged(kind):
    """20,000 users: a share of .3 within 4.5 standard errors of .0032 (false alarm 7e-6)."""
    world = world_of(kind, DriftConfig(unseen_share=0.3))
    assert (world.n_logged, world.n_users) == (USERS, 71)
    catalogue = world.population(20_000, seed=1) % world.n_users
    assert float((catalogue >= USERS).float().mean()) == pytest.approx(21 / 71, abs=4.5 * 0.0032)
    users = torch.tensor([3, 60, 70])
    state = world.initial_state(users, TensorStreams(1))
    assert world.observe(state).user.tolist() == [3, -1, -1], "the platform does not know them"
    features = world.observe(state).features
    assert torch.equal(features[1], features[2].where(torch.arange(world.n_features) != world.n_features - 1, features[1]))
    nothing = world.response.initial_memory(torch.tensor([-1]))
    past = slice(0, -1 if nothing.shape[1] else None)  # the last number limits what they will remember
    assert torch.equal(state.memory[1:, past], nothing[:, past].expand(2, -1)), "and they have no past"
    assert bool(torch.isfinite(state.memory).all())
    items = torch.arange(ITEMS).expand(2, -1)
    theirs = world.response.request_logits(users[1:], state.memory[1:], items)
    assert float((theirs[0] - theirs[1]).abs().max()) > 0.01, "each is somebody"
    assert torch.equal(world.response.scores(users[:1], items[:1]), model_of(kind).scores(users[:1], items[:1])), "the others are as before"


@pytest.mark.parametrize("kind", MODELS)
def test_their_lives_depend_on_nobody_else(kind):
    world = world_of(kind, DriftConfig(unseen_share=0.5), truth=False)
    users = world.population(70, seed=2)
    state, _ = live(world, users, 10)
    part, _ = live(world, users[20:27], 10)
    assert_same(part, state[20:27])
    assert bool((users % world.n_users >= USERS).any())


def test_latent_users_are_drawn_from_the_law_of_the_fitted_ones():
    """20,000 draws: means within 5 standard errors, covariances within 5 of theirs (false alarm of each 6e-7)."""
    response, n = toy_response(), 20_000
    known = response.users[:-1].double()
    drawn = response.with_unseen(n, Streams(4)).users[USERS:-1].double()
    assert drawn.shape == (n, known.shape[1])
    spread = known.std(0, correction=0)
    assert bool(((drawn.mean(0) - known.mean(0)).abs() <= 5 * spread / n**0.5 + 1e-6).all())
    wanted, found = known.T.cov(correction=0), drawn.T.cov(correction=0)
    error = ((spread[:, None] * spread) ** 2 + wanted**2).sqrt() / n**0.5
    assert bool(((found - wanted).abs() <= 5 * error + 1e-6).all())
    again = response.with_unseen(9, Streams(4)).users[USERS:-1]
    assert torch.equal(again, drawn[:9].float()), "a user's draw depends on its number alone"


def test_their_groups_and_levels_are_like_the_others():
    world = world_of("latent", DriftConfig("mix", unseen_share=0.8, seed=3))
    state = world.initial_state(torch.arange(world.n_users), TensorStreams(1))
    assert torch.isfinite(state.baseline).all()
    old, new = state.baseline[:USERS], state.baseline[USERS:]
    assert float(new.mean()) == pytest.approx(float(old.mean()), abs=4 * float(old.std()) / USERS**0.5)
    effects = world._group_effect[:-1]
    assert set(effects.tolist()) == {0.5, -0.5}
    assert float((effects[USERS:] > 0).float().mean()) == pytest.approx(0.5, abs=0.16)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ConfigError, match="unseen_share"):
        DriftConfig(unseen_share=share)
