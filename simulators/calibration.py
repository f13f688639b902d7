"""How well a fitted simulator describes users it has not seen: the ``simulator_fit`` table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import DataError
from recrl_datasets import Log, Sessions
from simulators.fit import FittedWorld
from simulators.law_fit import person_days
from simulators.response_model import replay
from simulators.trace import session_weekdays

Float = NDArray[np.float64]
SCHEMA = pa.schema(
    [
        ("quantity", pa.string()),
        ("group", pa.string()),
        *((name, pa.float64()) for name in ("simulated", "logged", "lower", "upper")),
        ("note", pa.string()),
    ]
)
RELIABILITY_SCHEMA = pa.schema(
    [
        ("behaviour", pa.string()),
        ("bin", pa.int64()),
        ("rows", pa.int64()),
        *((name, pa.float64()) for name in ("predicted", "logged", "lower", "upper")),
    ]
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_Z95 = 1.959963984540054
_BINS = 10
_ENOUGH = 50
_POSITIONS = 5


def calibration_table(fitted: FittedWorld, sessions: Sessions) -> pa.Table:
    """Simulated against logged quantities on held-out sessions, ideally of users that were not fitted.

    Rows: ``rate`` of each behaviour and ``click_given`` it; ``auc`` and calibration error ``ece`` (ten bins of equal size);
    ``watch_seconds``; ``leave_hazard`` by request of a session; ``return_hazard`` by day, over all days at risk and by activity
    group and weekday; ``eta_s``; ``delta_dow``. Simulated values are the model's expectations on the very rows, requests and days at
    risk that the log holds, so that no policy and no sampling noise comes between; a model with a memory is given the user's earlier
    rows, never the row itself. Intervals are of the logged value, 95 %, clustered by user; for ``auc`` of the AUC itself; ``ece`` has
    none (NaN).

    **Errors**: :class:`DataError` for a log over other users or items, or without rows.
    """
    log, response = sessions.log, fitted.response
    if (log.n_users, log.n_items) != (response.n_users, response.n_items) or log.n_rows == 0:
        raise DataError(
            f"a log of {log.n_rows} rows over {log.n_users} users and {log.n_items} items",
            where="calibration_table: sessions",
            mend=f"give rows of the store that was fitted: {response.n_users} users, {response.n_items} items",
        )
    rows = [*_response_rows(fitted, sessions), *_leave_rows(fitted, sessions), *_return_rows(fitted, sessions)]
    law = fitted.retention
    if law.eta_s_estimate is not None and law.eta_s_interval is not None:
        rows.append(
            _row("eta_s", "all", law.eta_s, law.eta_s_estimate, law.eta_s_interval, "used against estimated; observational, not identified")
        )
    for name, effect, interval in zip(_WEEKDAYS, law.delta_dow, law.delta_dow_interval, strict=False):
        rows.append(_row("delta_dow", name, effect, effect, interval, "estimated on the fitted users; few of each weekday"))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(quantity: str, group: str, simulated: float, logged: float, interval: tuple[float, float], note: str = "") -> dict[str, Any]:
    return {
        "quantity": quantity,
        "group": group,
        "simulated": simulated,
        "logged": logged,
        "lower": interval[0],
        "upper": interval[1],
        "note": note,
    }


def ratio(numerator: Float, denominator: Float, cluster: NDArray[np.integer]) -> tuple[float, tuple[float, float]]:
    """``sum numerator / sum denominator`` with its delta-method 95 % interval, clustered."""
    total = float(denominator.sum())
    value = float(numerator.sum()) / total
    residual = np.bincount(cluster, weights=numerator - value * denominator)
    half = _Z95 * float(np.sqrt((residual**2).sum())) / total
    return value, (value - half, value + half)


def _predicted(fitted: FittedWorld, log: Log) -> tuple[Float, Float]:
    """Marginals and P(behaviour and click) of each logged row, ``(n, 7)`` each."""
    logits = replay(fitted.response, log)[0][:, : len(BEHAVIOURS)]
    p = torch.sigmoid(logits)
    return fitted.response.marginals(logits).double().numpy(), (p * p[:, :1]).double().numpy()


def _response_rows(fitted: FittedWorld, sessions: Sessions) -> list[dict[str, Any]]:
    log, response = sessions.log, fitted.response
    user = log.column("user").astype(np.int64)
    p, joint = _predicted(fitted, log)
    ones = np.ones(log.n_rows)
    published = response.notes.rates_from == "published"
    rate_note = "rates are published ones, not this log's" if published else ""
    out = []
    for k, name in enumerate(BEHAVIOURS):
        if not log.has(name):
            continue
        y = log.column(name).astype(np.float64)
        few = f"{int(y.sum())} positives" if y.sum() < _ENOUGH else ""
        note = "; ".join(x for x in (rate_note, few) if x)
        out.append(_row("rate", name, float(p[:, k].mean()), *ratio(y, ones, user), note))
        if 0 < y.sum() < y.size:
            auc, half = clustered_auc(p[:, k], y, user)
            out.append(_row("auc", name, auc, float("nan"), (auc - half, auc + half), few))
            out.append(_row("ece", name, calibration_error(p[:, k], y), 0.0, (float("nan"),) * 2, note))
        if k and y.sum() > 0:
            given = ratio(y * log.column("click"), y, user)
            out.append(_row("click_given", name, float(joint[:, k].sum() / p[:, k].sum()), *given, note))
    if response.watch is not None and log.has("watch_seconds"):
        seconds = np.nan_to_num(log.column("watch_seconds").astype(np.float64))
        out.append(_row("watch_seconds", "all", _expected_watch(fitted, sessions), *ratio(seconds, ones, user)))
    return out


def reliability_table(fitted: FittedWorld, log: Log) -> pa.Table:
    """Predicted against logged shares of each behaviour in ten bins of equal size, from the least to the most likely rows.

    Intervals are of the logged share, 95 %, clustered by user.
    """
    p, _ = _predicted(fitted, log)
    user = log.column("user").astype(np.int64)
    out = []
    for k, name in enumerate(BEHAVIOURS):
        if not log.has(name):
            continue
        y = log.column(name).astype(np.float64)
        for number, part in enumerate(_bins(p[:, k])):
            logged, (lower, upper) = ratio(y[part], np.ones(part.size), user[part])
            row = {"behaviour": name, "bin": number, "rows": part.size, "predicted": float(p[part, k].mean())}
            out.append(row | {"logged": logged, "lower": lower, "upper": upper})
    return pa.Table.from_pylist(out, schema=RELIABILITY_SCHEMA)


def clustered_auc(score: Float, y: Float, cluster: NDArray[np.integer]) -> tuple[float, float]:
    """Area under the ROC curve, and half its 95 % interval when rows of a cluster depend on each other.

    **Assumptions**: independent clusters, many of them.

    **Source**: placements of DeLong et al., Biometrics 1988; summed by cluster as Obuchowski, Biometrics 1997.
    """
    auc, influence = auc_influence(score, y, cluster)
    return auc, _Z95 * float(np.sqrt((influence**2).sum()))


def auc_influence(score: Float, y: Float, cluster: NDArray[np.integer]) -> tuple[float, Float]:
    """The area, and what each cluster adds to its error: differences of two models' contributions give a paired interval."""
    good = y > 0
    n, m = int(good.sum()), int((~good).sum())
    # placements: the share of the other kind that a row outranks, ties count half
    rank, place = rankdata(score), np.empty(score.size)
    place[good] = (rank[good] - rankdata(score[good])) / m
    place[~good] = 1.0 - (rank[~good] - rankdata(score[~good])) / n
    auc = float(place[good].mean())
    share: Float = (place - auc) / np.where(good, n, m)
    return auc, np.asarray(np.bincount(cluster, weights=share), dtype=np.float64)


def _expected_watch(fitted: FittedWorld, sessions: Sessions) -> float:
    """Mean seconds given what the log says happened."""
    law = fitted.response.watch
    assert law is not None
    bias = replay(fitted.response, sessions.log)[0][:, -1]
    state = (sessions.log.feedback_bits() & 3).astype(np.int64)
    mean, spread = np.asarray(law.mean)[state], np.asarray(law.spread)[state]
    return float(np.expm1(mean + bias.double().numpy() + spread**2 / 2).mean())


def calibration_error(p: Float, y: Float) -> float:
    """Mean distance between predicted and logged shares over ten bins of equal size."""
    return float(sum(abs(p[part].mean() - y[part].mean()) * part.size for part in _bins(p)) / p.size)


def _bins(p: Float) -> list[NDArray[np.intp]]:
    return [part for part in np.array_split(np.argsort(p, kind="stable"), _BINS) if part.size]


def _leave_rows(fitted: FittedWorld, sessions: Sessions) -> list[dict[str, Any]]:
    traced, law = fitted.trace(sessions), fitted.leave
    session = traced.session
    hazard = expit(law.logit(np.log1p(traced.position), np.log1p(traced.fatigue[session]), traced.deviation))
    hazard[traced.position + 1 >= law.max_requests] = 1.0
    note = "" if law.source.startswith("fitted") else law.source
    cluster = sessions.user[session]
    out = []
    for k in range(_POSITIONS + 1):
        here = traced.known & ((traced.position == k) if k < _POSITIONS else (traced.position >= k))
        if here.any():
            logged = ratio(traced.last[here].astype(np.float64), np.ones(int(here.sum())), cluster[here])
            group = f"request {k + 1}" + ("" if k < _POSITIONS else " and later")
            out.append(_row("leave_hazard", group, float(hazard[here].mean()), *logged, note))
    return out


def _return_rows(fitted: FittedWorld, sessions: Sessions) -> list[dict[str, Any]]:
    traced, law = fitted.trace(sessions), fitted.retention
    row, day, y = person_days(sessions, law.max_days)
    if row.size == 0:
        return []
    code = fitted.groups[sessions.user[row]]
    effect = np.asarray([*law.group_effects, 0.0])[code]
    score = law.score(traced.end_deviation[row], traced.memory[row], effect)
    weekday = session_weekdays(sessions)[row]
    hazard = expit(np.asarray(law.day_logits)[day - 1] + score + law.calendar(weekday)[np.arange(row.size), day - 1])
    note = "" if law.source.startswith("fitted") else law.source
    ones, cluster = np.ones(row.size), sessions.user[row]

    def add(group: str, here: NDArray[np.bool_]) -> None:
        if here.any():
            users = len(np.unique(cluster[here]))
            why = note or (f"{users} users" if users < _ENOUGH else "")
            out.append(_row("return_hazard", group, float(hazard[here].mean()), *ratio(y[here], ones[here], cluster[here]), why))

    out: list[dict[str, Any]] = []
    for k in range(1, law.max_days + 1):
        add(f"day {k}", day == k)
    for g, name in enumerate(law.group_names):
        add(name, code == g)
    for w, name in enumerate(_WEEKDAYS if law.delta_dow else ()):
        add(name, (weekday + day) % 7 == w)
    return out


def verdict(table: pa.Table) -> str:
    """One line that says how the fit held up, and what it must not be used for."""
    rows = [r for r in table.to_pylist() if r["quantity"] in ("rate", "leave_hazard", "return_hazard") and not r["note"]]
    inside = sum(r["lower"] <= r["simulated"] <= r["upper"] for r in rows)
    judged = (
        f"{inside} of {len(rows)} fitted quantities lie within the held-out 95 % intervals" if rows else "nothing fitted could be checked"
    )
    return (
        f"{judged}; do not use it for forecasts of absolute retention, nor for any effect of satisfaction on return, "
        "which the log does not identify: eta_s is a scenario, named with every result"
    )
