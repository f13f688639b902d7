"""Effects with the simulator's own uncertainty: several simulators of one log, several assumed values of ``eta``.

An interval of one simulator is about more simulated users of the same fit. With ``M`` simulators fitted to bootstraps of the log's users
(:mod:`simulators.ensemble`), member ``m`` finds the effect ``e_m`` with the variance ``s_m^2``:

    effect = mean(e_m),   within W = mean(s_m^2),   between B = sum (e_m - effect)^2 / (M - 1),
    total T = W + (1 + 1/M) B,   degrees of freedom (M - 1) (1 + W / ((1 + 1/M) B))^2,

a Student interval (Rubin's rules). All members simulate the same users with the same luck, so ``W`` does not shrink with ``M``.

**Assumptions**: members are draws from what the log leaves open of the fitted parameters, and effects are about normal over them. What
no member was fitted to does not vary: ``eta``, the worth of behaviours, memory decays. So ``eta`` is a scenario, each with an interval of
its own; ``scenario = all`` spans them from the lowest end to the highest and has no level: no one knows how likely each is.

**Source**: Rubin, "Multiple imputation for nonresponse in surveys", 1987, chapter 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from recrl.core.errors import DataError
from simulators.ab.comparison import verdict
from simulators.ab.statistics import Effect, adjusted

Row = Mapping[str, Any]
SPAN = "all"
"""Name of the rows that span the scenarios."""

_DOUBLES = "effect lower upper level p_value plain_effect plain_lower plain_upper within between"
_TYPES = {name: pa.string() for name in ("scenario", "metric", "unit", "arm", "baseline", "verdict")} | {"members": pa.int64()}
_ORDER = f"scenario eta metric unit arm baseline {_DOUBLES} members verdict"
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in _ORDER.split()])
"""Columns of ``ab_uncertainty``."""


@dataclass(frozen=True)
class Combined:
    """An effect over several simulators.

    ``within`` and ``between`` are standard deviations: of sampling users in one simulator, and of the effect over simulators.
    """

    effect: float
    lower: float
    upper: float
    p_value: float
    within: float
    between: float


def combined(effects: Sequence[float], errors: Sequence[float], level: float = 0.95) -> Combined:
    """Rubin's rules for the effects of several simulators and their standard errors.

    **Errors**: :class:`DataError` for fewer than two simulators.

    >>> found = combined([1.0, 3.0], [1.0, 1.0])  # W = 1, B = 2, T = 1 + 1.5 * 2 = 4
    >>> found.effect, round((found.upper - found.effect) / stats.t.ppf(0.975, (1 + 1 / 3) ** 2), 6)
    (2.0, 2.0)
    """
    e, s = np.asarray(effects, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if e.size < 2 or e.shape != s.shape:
        raise DataError(f"{e.size} effects, {s.size} errors", where="combined", mend="give one of each for at least two simulators")
    mean, count = float(e.mean()), e.size
    within, between = float((s**2).mean()), float(e.var(ddof=1))
    spread = (1.0 + 1.0 / count) * between
    error = float(np.sqrt(within + spread))
    if error == 0.0:
        return Combined(mean, mean, mean, float(mean == 0.0), 0.0, 0.0)
    # between variance of 0: the normal limit
    freedom = (count - 1.0) * (1.0 + within / spread) ** 2 if spread > 0 else np.inf
    reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    p = float(2.0 * stats.t.sf(abs(mean) / error, freedom))
    return Combined(mean, mean - reach, mean + reach, p, float(np.sqrt(within)), float(np.sqrt(between)))


def uncertainty_table(
    plain: Sequence[Row], members: Mapping[str, Sequence[Sequence[tuple[str, str, Effect]]]], eta: Mapping[str, float]
) -> pa.Table:
    """Rows of ``ab_uncertainty``.

    Args:
        plain: rows of ``ab_metrics`` of the fitted simulator, all scenarios.
        members: by scenario, for each simulator of the ensemble, its effects as (metric, arm, effect). Without members the interval
            is the plain one.
        eta: its value in each scenario.
    """
    rows: list[dict[str, Any]] = []
    for row in plain:
        if row["arm"] == row["baseline"]:
            continue
        found = [e for one in members.get(row["scenario"], ()) for metric, arm, e in one if (metric, arm) == (row["metric"], row["arm"])]
        kept = {name: row[name] for name in ("scenario", "metric", "unit", "arm", "baseline", "level", "higher_is_better")}
        kept |= {"eta": eta[row["scenario"]], "members": len(found)}
        kept |= {f"plain_{name}": row[name] for name in ("effect", "lower", "upper")}
        if len(found) >= 2:
            over = combined([e.effect for e in found], [e.standard_error for e in found], row["level"])
            kept |= {name: getattr(over, name) for name in ("effect", "lower", "upper", "p_value", "within", "between")}
        else:
            kept |= {name: row[name] for name in ("effect", "lower", "upper", "p_value")}
        rows.append(kept)
    for row, p in zip(rows, adjusted([row["p_value"] for row in rows]), strict=True):
        row["verdict"] = verdict(row["effect"], row["higher_is_better"], p < 1.0 - row["level"])
    return pa.Table.from_pylist(rows + _spans(rows), schema=SCHEMA)


def _spans(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each metric and arm, from the lowest end of any scenario to the highest."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["metric"], row["arm"]), []).append(row)
    spans = []
    for group in groups.values():
        if len(group) < 2:
            continue
        says = {row["verdict"] for row in group}
        spans.append(
            {name: group[0][name] for name in ("metric", "unit", "arm", "baseline", "members")}
            | {
                "scenario": SPAN,
                "lower": min(row["lower"] for row in group),
                "upper": max(row["upper"] for row in group),
                "plain_lower": min(row["plain_lower"] for row in group),
                "plain_upper": max(row["plain_upper"] for row in group),
                "verdict": says.pop() if len(says) == 1 else "depends on eta",
            }
        )
    return spans
