"""Bandit estimators against loops written from the formulas, exact expectations, and published unit values."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import offline_eval
from offline_eval import bandit, doubly_robust
from offline_eval.validation import LARGE
from recrl.core.contracts import Contributions, Estimator, LoggedFeedback
from recrl.core.errors import ConfigError, DataError
from recrl.core.ragged import Offsets

FAMILY = {**bandit.REGISTRY, **doubly_robust.REGISTRY}
FLOATS = st.floats(-5, 5, allow_nan=False, width=32)


@st.composite
def logs(draw: st.DrawFn) -> LoggedFeedback:
    n = draw(st.integers(1, 12))

    def column(values: st.SearchStrategy[float]) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=np.float64)

    target = column(st.one_of(st.floats(-6, 0), st.just(-math.inf)))
    target[0] = -0.5  # some overlap, so that self-normalised values are defined
    target = target + 1e-6 * np.arange(n)  # no two rows alike
    return LoggedFeedback(
        reward=column(FLOATS),
        target_log_prob=target,
        behaviour_log_prob=column(st.floats(-6, 0)),
        cluster=column(st.integers(-3, 3)).astype(np.int64),
        target_value=column(FLOATS),
        logged_value=column(FLOATS),
    )


def by_hand(name: str, log: LoggedFeedback, cap: float = 10.0) -> float:
    """The formulas of the docstrings, one row at a time."""
    n = len(log.reward)
    total = weight_sum = direct = residuals = capped = capped_sum = switched = smooth = smooth_residuals = shrunk = 0.0
    users: dict[int, list[tuple[float, float]]] = {}
    ratio = [math.exp(log.target_log_prob[i]) / math.exp(log.behaviour_log_prob[i]) for i in range(n)]
    for i, w in enumerate(ratio):
        total += w * log.reward[i]
        weight_sum += w
        capped += min(w, cap) * log.reward[i]
        capped_sum += min(w, cap)
        direct += log.target_value[i]
        residuals += w * (log.reward[i] - log.logged_value[i])
        switched += w * (log.reward[i] - log.logged_value[i]) if w <= cap else 0.0
        smooth += w / (0.9 + 0.1 * w) * log.reward[i]
        smooth_residuals += w / (0.9 + 0.1 * w) * (log.reward[i] - log.logged_value[i])
        shrunk += 100 * w / (w * w + 100) * (log.reward[i] - log.logged_value[i])
        users.setdefault(int(log.cluster[i]), []).append((min(w, cap), log.reward[i]))
    means = [sum(w * r for w, r in rows) / sum(w for w, _ in rows) for rows in users.values() if any(w for w, _ in rows)]
    kept = offline_eval.Replay().contributions(log).denominators[0]  # which rows: see the tests of replay below
    accepted = [log.reward[i] for i in range(n) if kept[i]]
    return {
        "mean": sum(log.reward) / n,
        "ips": total / n,
        "clipped_ips": capped / n,
        "snips": total / weight_sum,
        "ncis": capped / capped_sum,
        "ncis_trajectory": sum(means) / len(means),
        "replay": sum(accepted) / max(len(accepted), 1),
        "dm": direct / n,
        "dr": (direct + residuals) / n,
        "sndr": direct / n + residuals / weight_sum,
        "switch_dr": (direct + switched) / n,
        "sg_ips": smooth / n,
        "sg_dr": (direct + smooth_residuals) / n,
        "dr_os": (direct + shrunk) / n,
    }[name]


@pytest.mark.parametrize("name", sorted(FAMILY))
@given(log=logs())
@settings(max_examples=25)
def test_every_estimator_equals_its_formula(name: str, log: LoggedFeedback) -> None:
    estimate = offline_eval.value(FAMILY[name].contributions(log))
    assert estimate == pytest.approx(by_hand(name, log), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", sorted(FAMILY))
@given(log=logs())
@settings(max_examples=25)
def test_value_and_error_do_not_depend_on_row_order_or_on_user_names(name: str, log: LoggedFeedback) -> None:
    order = np.random.default_rng(len(log.reward)).permutation(len(log.reward))
    shuffled = LoggedFeedback(
        log.reward[order],
        log.target_log_prob[order],
        log.behaviour_log_prob[order],
        7 - 1000 * log.cluster[order],
        log.target_value[order],
        log.logged_value[order],
    )
    first, second = (FAMILY[name].contributions(x) for x in (log, shuffled))
    assert offline_eval.value(second) == pytest.approx(offline_eval.value(first), rel=1e-10, abs=1e-10)
    assert offline_eval.standard_error(second) == pytest.approx(offline_eval.standard_error(first), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["snips", "mean"])
@given(log=logs(), shift=st.floats(-3, 3), scale=st.floats(0.1, 3))
@settings(max_examples=25)
def test_self_normalised_value_follows_shift_and_scale_of_the_reward(name: str, log: LoggedFeedback, shift: float, scale: float) -> None:
    estimator = FAMILY[name]
    moved = LoggedFeedback(scale * log.reward + shift, log.target_log_prob, log.behaviour_log_prob, log.cluster)
    expected = scale * offline_eval.value(estimator.contributions(log)) + shift
    assert offline_eval.value(estimator.contributions(moved)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(log=logs(), factor=st.floats(-3, 3))
@settings(max_examples=25)
def test_self_normalised_value_ignores_a_common_factor_of_the_weights(log: LoggedFeedback, factor: float) -> None:
    moved = LoggedFeedback(log.reward, log.target_log_prob + factor, log.behaviour_log_prob, log.cluster)
    first, second = (offline_eval.value(offline_eval.SNIPS().contributions(x)) for x in (log, moved))
    assert second == pytest.approx(first, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", sorted(FAMILY))
def test_policy_equal_to_the_logger_gives_unit_weights_and_the_log_mean(name: str) -> None:
    rng = np.random.default_rng(0)
    log_prob, reward = rng.normal(size=50), rng.random(50)
    # v = q: nothing but the residual is left of a doubly robust estimate; a direct one needs to foresee rewards
    # (and one that shrinks every weight leaves a part of the residual out)
    prediction = reward if name in ("dm", "dr_os") else rng.random(50)
    log = LoggedFeedback(reward, log_prob, log_prob, np.arange(50) // 5, prediction, prediction)
    contributions = FAMILY[name].contributions(log)
    assert np.all(contributions.weights == 1.0)
    assert offline_eval.value(contributions) == pytest.approx(reward.mean(), rel=1e-12)


# a bandit small enough to list: 2 contexts, 3 actions, Bernoulli rewards
CONTEXTS = np.array([0.3, 0.7])
LOGGER = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
TARGET = np.array([[0.1, 0.1, 0.8], [0.0, 0.25, 0.75]])
REWARD = np.array([[0.2, 0.5, 0.9], [0.7, 0.4, 0.1]])
TRUTH = float((CONTEXTS[:, None] * TARGET * REWARD).sum())


def possible_logs(
    rows: int, target: np.ndarray, logger: np.ndarray, assumed: np.ndarray, predicted: np.ndarray | None = None
) -> Iterator[tuple[float, LoggedFeedback]]:
    """Every log of ``rows`` rows that ``logger`` may write, with its probability."""
    cells = list(itertools.product(range(2), range(3), (0.0, 1.0)))
    for log in itertools.product(cells, repeat=rows):
        x, a = (np.array([cell[k] for cell in log], dtype=int) for k in range(2))
        r = np.array([cell[2] for cell in log])
        probability = np.prod(CONTEXTS[x] * logger[x, a] * np.where(r == 1, REWARD[x, a], 1 - REWARD[x, a]))
        with np.errstate(divide="ignore"):
            feedback = LoggedFeedback(
                r,
                np.log(target[x, a]),
                np.log(assumed[x, a]),
                np.arange(rows),
                None if predicted is None else (target * predicted).sum(axis=1)[x],
                None if predicted is None else predicted[x, a],
            )
        yield float(probability), feedback


def expectation(estimator: Estimator, rows: int, assumed_logger: np.ndarray, predicted: np.ndarray | None = None) -> float:
    """Sum of probability times value over every log of ``rows`` rows."""
    logs = possible_logs(rows, TARGET, LOGGER, assumed_logger, predicted)
    return sum(probability * offline_eval.value(estimator.contributions(feedback)) for probability, feedback in logs)


def test_ips_is_unbiased_over_every_possible_log() -> None:
    assert expectation(offline_eval.IPS(), 2, LOGGER) == pytest.approx(TRUTH, abs=1e-12)


def test_dr_is_unbiased_with_right_propensities_whatever_it_predicts() -> None:
    assert expectation(offline_eval.DR(), 2, LOGGER, predicted=np.array([[1.0, -2.0, 0.3], [0.0, 4.0, 0.5]])) == pytest.approx(
        TRUTH, abs=1e-12
    )


def test_dr_is_unbiased_with_right_predictions_whatever_the_propensities() -> None:
    wrong = np.array([[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]])
    assert expectation(offline_eval.DR(), 2, wrong, predicted=REWARD) == pytest.approx(TRUTH, abs=1e-12)
    assert abs(expectation(offline_eval.IPS(), 2, wrong) - TRUTH) > 0.05


def test_clipping_biases_by_the_mass_above_the_cap() -> None:
    cap = 2.0
    kept = LOGGER * np.minimum(TARGET / LOGGER, cap)
    assert expectation(offline_eval.ClippedIPS(cap), 2, LOGGER) == pytest.approx(
        float((CONTEXTS[:, None] * kept * REWARD).sum()), abs=1e-12
    )


PREDICTED = np.array([[1.0, -2.0, 0.3], [0.0, 4.0, 0.5]])


def test_the_direct_method_is_worth_what_its_model_says() -> None:
    assert expectation(offline_eval.DM(), 2, LOGGER, REWARD) == pytest.approx(TRUTH, abs=1e-12)
    claimed = float((CONTEXTS[:, None] * TARGET * PREDICTED).sum())
    assert expectation(offline_eval.DM(), 2, LOGGER, PREDICTED) == pytest.approx(claimed, abs=1e-12)


def test_switching_biases_by_the_models_error_above_the_threshold() -> None:
    above = TARGET / LOGGER > 2.0
    assert above.sum() == 2
    bias = float((CONTEXTS[:, None] * TARGET * above * (PREDICTED - REWARD)).sum())
    assert expectation(offline_eval.SwitchDR(2.0), 2, LOGGER, PREDICTED) == pytest.approx(TRUTH + bias, abs=1e-12)
    assert expectation(offline_eval.SwitchDR(4.1), 2, LOGGER, PREDICTED) == pytest.approx(TRUTH, abs=1e-12)


@pytest.mark.parametrize("shrinkage", [0.5, 100.0])
def test_shrinkage_biases_by_the_models_error_where_weights_shrink(shrinkage: float) -> None:
    w = TARGET / LOGGER
    lost = LOGGER * (w - shrinkage * w / (w**2 + shrinkage))
    bias = float((CONTEXTS[:, None] * lost * (PREDICTED - REWARD)).sum())
    assert expectation(offline_eval.ShrunkDR(shrinkage), 2, LOGGER, PREDICTED) == pytest.approx(TRUTH + bias, abs=1e-12)
    assert expectation(offline_eval.ShrunkDR(shrinkage), 2, LOGGER, REWARD) == pytest.approx(TRUTH, abs=1e-12)
    assert expectation(offline_eval.ShrunkDR(1e12), 2, LOGGER, PREDICTED) == pytest.approx(TRUTH, abs=1e-9)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_smoothing_biases_by_what_the_weights_lose(strength: float) -> None:
    w = TARGET / LOGGER
    kept = LOGGER * np.divide(w, 1 - strength + strength * w, out=np.zeros_like(w), where=w > 0)
    value = float((CONTEXTS[:, None] * kept * REWARD).sum())
    assert expectation(offline_eval.SubGaussianIPS(strength), 2, LOGGER) == pytest.approx(value, abs=1e-12)
    direct = float((CONTEXTS[:, None] * (TARGET * PREDICTED + kept * (REWARD - PREDICTED))).sum())
    assert expectation(offline_eval.SubGaussianDR(strength), 2, LOGGER, PREDICTED) == pytest.approx(direct, abs=1e-12)
    if strength == 0.0:
        assert value == pytest.approx(TRUTH, abs=1e-12)
    if strength == 1.0:  # weights are forgotten but for 0: the logger's own mean where the target might act
        assert value == pytest.approx(float((CONTEXTS[:, None] * LOGGER * (TARGET > 0) * REWARD).sum()), abs=1e-12)


@pytest.mark.parametrize("kind", [offline_eval.SubGaussianIPS, offline_eval.SubGaussianDR])
@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strengths_lie_in_the_unit_interval(kind: type, strength: float) -> None:
    with pytest.raises(ConfigError, match=f"strength is {strength}"):
        kind(strength)


def test_replay_is_unbiased_given_that_something_is_accepted() -> None:
    """A logger that shows each action alike and a deterministic target: the rows where both agree are accepted, whatever is drawn."""
    uniform, chosen = np.full((2, 3), 1 / 3), np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    total = heard = 0.0
    for probability, log in possible_logs(2, chosen, uniform, uniform):
        contributions = offline_eval.Replay(bound=3.0).contributions(log)
        assert np.array_equal(contributions.denominators[0], log.target_log_prob == 0.0)
        if contributions.denominators.sum():
            total += probability * offline_eval.value(contributions)
            heard += probability
    assert total / heard == pytest.approx(float((CONTEXTS[:, None] * chosen * REWARD).sum()), abs=1e-12)


def test_replay_accepts_rows_in_proportion_to_their_weight() -> None:
    """400 seeds a row: each acceptance rate lies within 5 standard errors of w / bound; false alarm below 1e-5."""
    weight = np.array([0.0, 0.3, 1.0, 2.5, 4.0])
    with np.errstate(divide="ignore"):
        log = LoggedFeedback(np.arange(5.0), np.log(weight), np.zeros(5), np.arange(5))
    kept = np.stack([offline_eval.Replay(bound=5.0, seed=seed).contributions(log).denominators[0] for seed in range(400)])
    expected = weight / 5.0
    assert np.all(np.abs(kept.mean(axis=0) - expected) <= 5 * np.sqrt(expected * (1 - expected) / 400))
    largest = offline_eval.Replay().contributions(log)
    assert largest.denominators[0, 4] == 1.0
    assert largest.weights.max() == 4.0
    with pytest.raises(DataError, match=re.escape("weight is 4.0 in row 4 (1 such rows)")):
        offline_eval.Replay(bound=3.9).contributions(log)


def test_replay_of_nothing_accepted_is_undefined() -> None:
    log = LoggedFeedback(np.ones(2), np.full(2, -np.inf), np.zeros(2), np.arange(2))
    with pytest.raises(DataError, match="every importance weight is zero"):
        offline_eval.value(offline_eval.Replay().contributions(log))


def test_trajectories_count_alike_in_the_metric_of_session_papers() -> None:
    """Two trajectories of one user, weights 3 and 1 in the first, one capped row in the second."""
    log = LoggedFeedback(
        np.array([1.0, 5.0, 10.0, 7.0]),
        np.log([0.3, 0.1, 0.9, 0.5]),
        np.log([0.1, 0.1, 0.01, 0.5]),
        np.zeros(4, dtype=int),
        trajectory=Offsets.from_lengths([2, 0, 2]),
    )
    found = offline_eval.value(offline_eval.TrajectoryNCIS(cap=4.0).contributions(log))
    assert found == pytest.approx(((3 * 1 + 1 * 5) / 4 + (4 * 10 + 1 * 7) / 5) / 2, rel=1e-12)
    on_policy = replace(log, target_log_prob=log.behaviour_log_prob)
    assert offline_eval.value(offline_eval.TrajectoryNCIS().contributions(on_policy)) == pytest.approx((3.0 + 8.5) / 2, rel=1e-12)
    silent = replace(log, target_log_prob=np.array([-np.inf, -np.inf, 0.0, 0.0]))
    assert offline_eval.value(offline_eval.TrajectoryNCIS(1.0).contributions(silent)) == pytest.approx(8.5, rel=1e-12)


# a log that holds every context, action and reward in its exact proportion: what an infinite log would say
SHARE = np.round(1000 * CONTEXTS[:, None, None] * LOGGER[..., None] * np.stack([1 - REWARD, REWARD], axis=-1)).astype(int)


@pytest.mark.parametrize("name", ["ips", "snips", "dr", "sndr", "switch_dr", "replay", "ncis", "clipped_ips", "dm"])
def test_consistent_estimators_are_exact_on_an_exhaustive_log(name: str) -> None:
    x, a, r = (index.repeat(SHARE.ravel()) for index in (grid.ravel() for grid in np.indices(SHARE.shape)))
    assert x.size == 1000
    predicted = REWARD if name == "dm" else PREDICTED
    with np.errstate(divide="ignore"):
        log = LoggedFeedback(
            r.astype(float),
            np.log(TARGET[x, a]),
            np.log(LOGGER[x, a]),
            np.arange(x.size),
            (TARGET * predicted).sum(axis=1)[x],
            predicted[x, a],
        )
    found = offline_eval.value(FAMILY[name].contributions(log))
    if name == "replay":  # consistent, but it draws: 1 / 4 of the rows, deviation at most 0.5 / sqrt(250), 5 of these
        assert found == pytest.approx(TRUTH, abs=5 * 0.5 / math.sqrt(250))
    else:
        assert found == pytest.approx(TRUTH, abs=1e-10)


def gaussian(action: np.ndarray, centre: np.ndarray | float, sigma: float = 25.0) -> np.ndarray:
    return -0.5 * ((action - np.asarray(centre)) / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))


def test_ncis_unit_values_of_the_published_metric() -> None:
    action, reward, users = np.array([0.0, 50.0, 100.0]), np.array([1.0, 2.0, 4.0]), np.arange(3)
    constant = offline_eval.ncis(gaussian(action, 50.0), gaussian(action, action), reward, cap=10.0, cluster=users)
    assert constant.value == pytest.approx(2.106507, abs=5e-7)
    weights = offline_eval.NCIS(10.0).contributions(LoggedFeedback(reward, gaussian(action, 50.0), gaussian(action, action), users)).weights
    np.testing.assert_allclose(weights, [0.135335, 1.0, 0.135335], atol=5e-7)
    same = offline_eval.ncis(gaussian(action, action), gaussian(action, action), reward, cluster=users)
    assert same.value == pytest.approx(7 / 3, rel=1e-15)
    # a policy ahead of the behaviour policy: the weight e^2 passes a cap of 10 and is cut by a cap of 5
    late = [(gaussian(action, action), gaussian(action, action + 50.0), cap) for cap in (10.0, 5.0)]
    for target, behaviour, cap in late:
        found = offline_eval.NCIS(cap).contributions(LoggedFeedback(reward, target, behaviour, users)).weights
        np.testing.assert_allclose(found, min(math.exp(2.0), cap), rtol=1e-12)


def test_capped_weights_never_overflow() -> None:
    found = offline_eval.ncis([5000.0, 0.0], [-5000.0, 0.0], [1.0, 0.0], cap=10.0, cluster=[0, 1])
    assert found.value == pytest.approx(10 / 11)


def test_impossible_target_actions_have_weight_zero() -> None:
    log = LoggedFeedback(np.array([1.0, 5.0]), np.array([0.0, -np.inf]), np.array([0.0, -1.0]), np.array([0, 1]))
    assert [offline_eval.value(FAMILY[name].contributions(log)) for name in ("ips", "snips")] == [0.5, 1.0]


def test_all_zero_rewards_are_worth_zero() -> None:
    log = LoggedFeedback(np.zeros(4), np.log([0.1, 0.2, 0.3, 0.4]), np.log([0.4, 0.3, 0.2, 0.1]), np.arange(4))
    for name in ("mean", "ips", "clipped_ips", "snips", "ncis"):
        found = offline_eval.interval(FAMILY[name].contributions(log))
        assert (found.value, found.lower, found.upper) == (0.0, 0.0, 0.0)


def test_tensors_and_lists_are_taken_as_they_are() -> None:
    torch = pytest.importorskip("torch")
    target, behaviour, reward = [-1.0, -2.0], [-1.5, -0.5], [1.0, 0.0]
    from_lists = offline_eval.snips(target, behaviour, reward, cluster=[0, 1])
    from_tensors = offline_eval.snips(
        *(torch.tensor(x, dtype=torch.float64) for x in (target, behaviour, reward)), cluster=torch.tensor([0, 1])
    )
    assert from_tensors == from_lists


def test_registry_holds_estimators_under_their_names() -> None:
    for name, estimator in FAMILY.items():
        assert isinstance(estimator, Estimator)
        assert estimator.name == name
        log = LoggedFeedback(np.ones(3), np.zeros(3), np.zeros(3), np.arange(3), np.ones(3), np.ones(3))
        found = estimator.contributions(log)
        assert isinstance(found, Contributions)
        assert found.numerators.shape == found.denominators.shape
        assert found.numerators.shape[1:] == found.cluster.shape == found.weights.shape == (3,)


def test_import_loads_no_torch() -> None:
    code = "import sys, offline_eval; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_large_logs_are_worth_the_same_whether_torch_is_loaded_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = 2 * LARGE + 3
    logs = rng.normal(-1.0, 3.0, rows)
    logs[rng.integers(0, rows, 50)] = -np.inf
    feedback = LoggedFeedback(rng.random(rows), logs, np.full(rows, -2.0), np.arange(rows) // 7)
    assert "torch" in sys.modules  # conftest.py loads it
    with_torch = offline_eval.SNIPS().contributions(feedback)
    monkeypatch.setitem(sys.modules, "torch", None)
    without = offline_eval.SNIPS().contributions(feedback)
    np.testing.assert_allclose(with_torch.weights, without.weights, rtol=1e-14, atol=0)
    assert (with_torch.weights == 0).sum() == np.isneginf(logs).sum()
    np.testing.assert_array_equal(feedback.target_log_prob, logs)  # a copy was exponentiated, not the log


def test_slates_and_vectors_enter_through_their_log_probabilities_alone() -> None:
    """Every ordered slate of two out of four items with its Plackett-Luce probability; then a Gaussian density over a fine grid."""
    torch = pytest.importorskip("torch")
    from recrl.core.contracts import Observation
    from recrl.policies.items import ItemPolicy, TableScores, item_spec

    slates = torch.tensor(list(itertools.permutations(range(4), 2)))
    observation = Observation(user=torch.arange(len(slates)))
    scores = [torch.tensor(s, dtype=torch.float32) for s in ([0.0, 1.0, 0.5, -1.0], [1.0, -0.5, 0.0, 0.7])]
    logged, target = (ItemPolicy(TableScores(s), item_spec(4, 2)).log_prob(observation, slates).double().numpy() for s in scores)
    reward = np.random.default_rng(0).random(len(slates))
    truth = float(np.exp(target) @ reward / np.exp(target).sum())
    # each slate once, its own probability as the weight of the row: what the logger would write, in proportion
    weighted = LoggedFeedback(reward * np.exp(logged) * len(slates), target, logged, np.arange(len(slates)))
    assert offline_eval.value(offline_eval.IPS().contributions(weighted)) == pytest.approx(truth, abs=1e-6)  # float32 policies
    with pytest.raises(DataError, match=re.escape("target_log_prob has shape (12, 2), expected (n,)")):
        offline_eval.SNIPS().contributions(replace(weighted, target_log_prob=np.stack([target, target], axis=1)))

    action = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)  # standard normal logger, in proportion
    log = LoggedFeedback(action**2, stats.norm.logpdf(action, 0.3, 0.6), stats.norm.logpdf(action), np.arange(action.size))
    assert offline_eval.value(offline_eval.SNIPS().contributions(log)) == pytest.approx(0.3**2 + 0.6**2, abs=1e-4)
