"""How well a fitted simulator describes users it has not seen: the ``simulator_fit`` table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import DataError
from recrl_datasets import Sessions
from simulators.fit import FittedWorld
from simulators.law_fit import person_days

Float = NDArray[np.float64]
SCHEMA = pa.schema(
    [
        ("quantity", pa.string()),
        ("group", pa.string()),
        *((name, pa.float64()) for name in ("simulated", "logged", "lower", "upper")),
        ("note", pa.string()),
    ]
)
_Z95 = 1.959963984540054
_ENOUGH = 50
_POSITIONS = 5


def calibration_table(fitted: FittedWorld, sessions: Sessions) -> pa.Table:
    """Simulated against logged quantities on held-out sessions, ideally of users that were not fitted.

    Rows: ``rate`` of each behaviour and ``click_given`` it; ``auc`` and calibration error ``ece`` (ten bins of equal size);
    ``watch_seconds``; ``leave_hazard`` by request of a session; ``return_hazard`` by day, over all days at risk and by activity
    group; ``eta_s``. Simulated values are the model's expectations on the very rows, requests and days at risk that the log holds,
    so that no policy and no sampling noise comes between. Intervals are of the logged value, 95 %, clustered by user; AUC and ECE
    have none (NaN).

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


def _ratio(numerator: Float, denominator: Float, cluster: NDArray[np.integer]) -> tuple[float, tuple[float, float]]:
    """``sum numerator / sum denominator`` with its delta-method interval, clustered."""
    total = float(denominator.sum())
    value = float(numerator.sum()) / total
    residual = np.bincount(cluster, weights=numerator - value * denominator)
    half = _Z95 * float(np.sqrt((residual**2).sum())) / total
    return value, (value - half, value + half)


def _response_rows(fitted: FittedWorld, sessions: Sessions) -> list[dict[str, Any]]:
    log, response = sessions.log, fitted.response
    user = log.column("user").astype(np.int64)
    item = log.column("item").astype(np.int64)
    logits = response.logits(torch.from_numpy(user), torch.from_numpy(item).unsqueeze(1))[:, 0]
    p = response.marginals(logits).double().numpy()
    joint = (torch.sigmoid(logits) * torch.sigmoid(logits[:, :1])).double().numpy()
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
        out.append(_row("rate", name, float(p[:, k].mean()), *_ratio(y, ones, user), note))
        if 0 < y.sum() < y.size:
            out.append(_row("auc", name, float(roc_auc_score(y, p[:, k])), float("nan"), (float("nan"),) * 2, few))
            out.append(_row("ece", name, _calibration_error(p[:, k], y), 0.0, (float("nan"),) * 2, note))
        if k and y.sum() > 0:
            given = _ratio(y * log.column("click"), y, user)
            out.append(_row("click_given", name, float(joint[:, k].sum() / p[:, k].sum()), *given, note))
    if response.watch is not None and log.has("watch_seconds"):
        seconds = np.nan_to_num(log.column("watch_seconds").astype(np.float64))
        out.append(_row("watch_seconds", "all", _expected_watch(fitted, user, item, sessions), *_ratio(seconds, ones, user)))
    return out


def _expected_watch(fitted: FittedWorld, user: NDArray[np.int64], item: NDArray[np.int64], sessions: Sessions) -> float:
    """Mean seconds given what the log says happened."""
    law, response = fitted.response.watch, fitted.response
    assert law is not None
    bias = response.users[user, -1] + response.items[item, -1]
    state = (sessions.log.feedback_bits() & 3).astype(np.int64)
    mean, spread = np.asarray(law.mean)[state], np.asarray(law.spread)[state]
    return float(np.expm1(mean + bias.double().numpy() + spread**2 / 2).mean())


def _calibration_error(p: Float, y: Float) -> float:
    parts = np.array_split(np.argsort(p, kind="stable"), 10)
    return float(sum(abs(p[part].mean() - y[part].mean()) * part.size for part in parts if part.size) / p.size)


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
            logged = _ratio(traced.last[here].astype(np.float64), np.ones(int(here.sum())), cluster[here])
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
    hazard = expit(np.asarray(law.day_logits)[day - 1] + score)
    note = "" if law.source.startswith("fitted") else law.source
    ones, cluster = np.ones(row.size), sessions.user[row]

    def add(group: str, here: NDArray[np.bool_]) -> None:
        if here.any():
            users = len(np.unique(cluster[here]))
            why = note or (f"{users} users" if users < _ENOUGH else "")
            out.append(_row("return_hazard", group, float(hazard[here].mean()), *_ratio(y[here], ones[here], cluster[here]), why))

    out: list[dict[str, Any]] = []
    for k in range(1, law.max_days + 1):
        add(f"day {k}", day == k)
    for g, name in enumerate(law.group_names):
        add(name, code == g)
    return out


def verdict(table: pa.Table) -> str:
    """One line that says how the fit held up, and what it must not be used for."""
    rows = [r for r in table.to_pylist() if r["quantity"] in ("rate", "leave_hazard", "return_hazard") and not r["note"]]
    inside = sum(r["lower"] <= r["simulated"] <= r["upper"] for r in rows)
    judged = (
        f"{inside} of {len(rows)} fitted quantities lie within the held-out 95 % intervals" if rows else "nothing fitted could be checked"
    )
    return (
        f"{judged}; not for forecasts of absolute retention, nor of any effect of satisfaction on return, which the log does not identify"
    )
