"""Tables and verdict of AURO's study, from whatever cells there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recrl.reproductions.auro.drifting import PERIOD
from recrl.reproductions.auro.users import RATIOS, Result, user_bounds
from recrl.reproductions.study import Done, Published, Report, mean_interval, paired

DRIFTED: Final = ("held", "weekly", "regimes")
BASELINES: Final = ("td3", "rlur", "cem")
"""What the verdict compares AURO with, beside the bounds ``random`` and ``oracle``."""

_BEFORE, _SMOOTH, _WITHIN, _LIMIT, _AFTER, _SETTLED = 5, 3, 0.01, 5, 7, 12
_NAMES: Final = {
    "td3": "TD3",
    "rlur": "RLUR",
    "cem": "static CEM",
    "oracle": "the oracle",
    "random": "random weights",
    "supervised": "the supervised ranker",
}

PUBLISHED: Final = tuple(
    Published(method, quantity, value, certainty, source)  # type: ignore[arg-type]
    for method, quantity, value, certainty, source in (
        ("auro", "ard", 1.531, "likely", "table 2, three accounts"),
        ("auro", "day_1", 0.824, "likely", "table 2, three accounts"),
        ("rlur", "ard", 1.706, "uncertain", "table 2; another account has 1.794"),
        ("rlur", "day_1", 0.765, "uncertain", "table 2; another account has .731"),
        ("td3", "ard", 1.772, "uncertain", "table 2, one account"),
        ("td3", "day_1", 0.738, "uncertain", "table 2, one account"),
        ("cem", "ard", 1.858, "uncertain", "table 2, one account; ranked by rewards of single steps"),
    )
)
"""The paper's simulator table, at second hand."""


def _share(days: Sequence[Mapping[str, float]], above: str, below: str) -> float:
    return sum(d[above] for d in days) / max(sum(d[below] for d in days), 1.0)


def day_1(result: Result) -> float:
    """P(1) of the frozen policy: the mean of the day-1 hazards that returns are drawn from."""
    return _share(result["deployed"], "expected", "sessions")


def gap_days(result: Result) -> float:
    """Mean days away of those who come back, of the frozen policy."""
    return _share(result["deployed"], "gap_days", "returns")


def daily(result: Result) -> NDArray[np.float64]:
    """P(1) of each day of acting."""
    return np.array([d["expected"] / max(d["sessions"], 1.0) for d in result["days"]])


def acting(result: Result) -> float:
    """P(1) in the second half of the days of acting."""
    series = daily(result)
    return float(series[len(series) // 2 :].mean())


QUANTITIES: Final[dict[str, Callable[[Result], float]]] = {"day_1": day_1, "gap_days": gap_days, "acting_day_1": acting}


def recovery(regret: NDArray[np.float64], switch: int) -> tuple[int, float]:
    """Days until the mean regret of three days is back within .01 of that of the five days before, 5 at most; and the sum over seven days
    of what it is above.

    Args:
        regret: the oracle's P(1) of each day less the method's.
        switch: day on which the drift switches.

    >>> recovery(np.array([0.0] * 5 + [0.3, 0.2] + [0.0] * 5), 5)
    (2, 0.5)
    """
    level = regret[switch - _BEFORE : switch].mean()
    smooth = [regret[k : k + _SMOOTH].mean() for k in range(switch, switch + _LIMIT)]
    days = next((k for k, x in enumerate(smooth) if x <= level + _WITHIN), _LIMIT)
    return days, float((regret[switch : switch + _AFTER] - level).clip(0).sum())


def switches(part: str, days: int) -> list[int]:
    """Switch days of a part that have a settled level before them and a week after."""
    return [s for s in range(PERIOD[part], days, PERIOD[part]) if s >= _SETTLED and s + _AFTER <= days] if part in PERIOD else []


def _of(done: Sequence[Done], part: str, method: str) -> dict[int, Result]:
    return {d.cell.seed: d.result for d in done if d.cell.part == part and d.cell.method == method}


def _pairs(done: Sequence[Done]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((d.cell.part, d.cell.method) for d in done))


def _interval(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Mean and bounds, without bounds for a single seed."""
    mean, low, high = mean_interval(values)
    bounded = len(values) > 1
    return {name: mean, f"{name}_low": low if bounded else None, f"{name}_high": high if bounded else None}


def over_drifts(done: Sequence[Done], against: str, value: Callable[[Result], float], method: str = "auro") -> list[float]:
    """Differences ``method - against``, a mean over all drifts for each seed that has them whole."""
    found = [{name: _of(done, part, name) for name in (method, against)} for part in DRIFTED]
    seeds = set.intersection(*(set(pair[method]) & set(pair[against]) for pair in found))
    return [float(np.mean([value(pair[method][s]) - value(pair[against][s]) for pair in found])) for s in sorted(seeds)]


def _means(cells: Mapping[str, Any]) -> dict[str, float]:
    return {name: cells[name] for name in RATIOS}


def retention_table(done: Sequence[Done]) -> list[dict[str, Any]]:
    """Return gap and day-1 retention of each method in each part of the calibrated simulator; intervals over seeds and over users."""
    rows = []
    for part, method in _pairs(done):
        if part != "published":
            held = list(_of(done, part, method).values())
            cells: dict[str, Any] = {"part": part, "method": method, "seeds": len(held)}
            cells |= {k: v for name, value in QUANTITIES.items() for k, v in _interval(name, [value(r) for r in held]).items()}
            rows.append(cells | user_bounds([[[r]] for r in held], _means(cells)))
    return rows


def against_table(done: Sequence[Done]) -> list[dict[str, Any]]:
    """AURO less each other method, paired by seed, in each part and over all drifts; intervals over seeds, and over paired users."""
    rows = []
    others = dict.fromkeys(method for part, method in _pairs(done) if method != "auro" and part != "published")
    parts = dict.fromkeys(part for part, method in _pairs(done) if method == "auro" and part != "published")
    for part in ("all", *parts):
        for other in others:
            differences = {
                name: over_drifts(done, other, value) if part == "all" else paired(done, part, "auro", other, value)
                for name, value in QUANTITIES.items()
            }
            if count := len(differences["day_1"]):
                cells: dict[str, Any] = {"part": part, "auro_less": other, "seeds": count}
                cells |= {k: v for name, values in differences.items() for k, v in _interval(name, values).items()}
                rows.append(cells | user_bounds(_pairs_of(done, DRIFTED if part == "all" else (part,), other), _means(cells)))
    return rows


def _pairs_of(done: Sequence[Done], parts: Sequence[str], other: str) -> list[list[list[Result]]]:
    """AURO's result and the other's, of each part of each seed that has them whole."""
    found = [(_of(done, part, "auro"), _of(done, part, other)) for part in parts]
    seeds = set.intersection(*(set(ours) & set(theirs) for ours, theirs in found))
    return [[[ours[seed], theirs[seed]] for ours, theirs in found] for seed in sorted(seeds)]


def _recoveries(done: Sequence[Done], part: str, method: str) -> list[tuple[int, int, int, float]]:
    """Seed, switch, days and area."""
    best, rows = _of(done, part, "oracle"), []
    for seed, result in _of(done, part, method).items():
        if seed in best:
            regret = daily(best[seed]) - daily(result)
            rows += [(seed, s, *recovery(regret, s)) for s in switches(part, len(regret))]
    return rows


def _by_seed(rows: Sequence[tuple[int, int, int, float]], column: int) -> dict[int, float]:
    return {seed: float(np.mean([row[column] for row in rows if row[0] == seed])) for seed in dict.fromkeys(row[0] for row in rows)}


def recovery_tables(done: Sequence[Done]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Over all switches, with intervals over seeds; and each switch by itself."""
    over, each = [], []
    for part, method in _pairs(done):
        rows = _recoveries(done, part, method) if part in PERIOD and method != "oracle" else []
        if rows:
            days, areas = (list(_by_seed(rows, column).values()) for column in (2, 3))
            name = {"part": part, "method": method}
            over.append({**name, "seeds": len(days), **_interval("recovery_days", days), **_interval("regret_area", areas)})
            for switch in sorted({row[1] for row in rows}):
                here = [row for row in rows if row[1] == switch]
                means = {key: float(np.mean([row[column] for row in here])) for key, column in (("recovery_days", 2), ("regret_area", 3))}
                each.append({**name, "switch_day": switch, "seeds": len(here), **means})
    return over, each


def abstraction_table(done: Sequence[Done]) -> list[dict[str, Any]]:
    """What ``phi`` tells of the drift and of value, beside an untrained one."""
    rows = []
    for part in dict.fromkeys(d.cell.part for d in done):
        held = [r["probe"] for r in _of(done, part, "auro").values() if "probe" in r]
        if held:
            row: dict[str, Any] = {"part": part, "seeds": len(held)}
            for kind in ("r2", "spearman", "silhouette"):
                if f"{kind}_phi" in held[0]:
                    row |= {f"{kind}_{who}": float(np.mean([p[f"{kind}_{who}"] for p in held])) for who in ("phi", "untrained")}
                    row |= _interval(f"{kind}_gain", [p[f"{kind}_phi"] - p[f"{kind}_untrained"] for p in held])
            rows.append(row)
    return rows


def guard_table(done: Sequence[Done]) -> list[dict[str, Any]]:
    """Executed actions by the critics' mean value of them, computed anew, against that of the actor's own."""
    rows = []
    for part, method in _pairs(done):
        held = [r["guard"] for r in _of(done, part, method).values() if "guard" in r]
        if held:
            weight = np.array([g["acts"] for g in held])
            names = [name for name in ("never_below", "kept", "gain") if name in held[0]]
            means = {name: float(np.average([g[name] for g in held], weights=weight)) for name in names}
            least = min(g["least_gain"] for g in held)
            rows.append({"part": part, "method": method, "acts": int(weight.sum()), **means, "least_gain": least})
    return rows


def _ours(held: Sequence[Result], quantity: str) -> dict[str, float | None]:
    """A figure in AURO's own environment: intervals over seeds, and over users, whose errors add up."""
    cells = _interval("ours", [r[quantity] for r in held])
    half = 1.959964 * float(np.hypot.reduce([r[f"{quantity}_users_error"] for r in held])) / len(held)
    mean = cells["ours"] or 0.0
    return {**cells, "ours_users_low": mean - half, "ours_users_high": mean + half}


def published_table(done: Sequence[Done]) -> list[dict[str, Any]]:
    """The paper's numbers beside ours; levels do not compare, the released response network is not to be had."""
    told = {(p.method, p.quantity): p for p in PUBLISHED}
    methods = dict.fromkeys([p.method for p in PUBLISHED] + [m for part, m in _pairs(done) if part == "published"])
    rows = []
    for method in methods:
        held = list(_of(done, "published", method).values())
        for quantity in ("ard", "day_1"):
            number = told.get((method, quantity))
            row: dict[str, Any] = {"method": method, "quantity": quantity, "published": number and number.value}
            row |= {"certainty": number and number.certainty, "source": number and number.source, "seeds": len(held)}
            missing = dict.fromkeys(("ours", "ours_low", "ours_high", "ours_users_low", "ours_users_high"))
            rows.append(row | (_ours(held, quantity) if held else missing))
    return rows


def _word(values: Sequence[float]) -> str:
    _, low, high = mean_interval(values)
    return "above" if low > 0 else "below" if high < 0 else "not told apart from"


def _figures(values: Sequence[float]) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def verdict(done: Sequence[Done]) -> tuple[str, ...]:
    """What the numbers say, the answer first; each interval is a 95 % one of Student's t over seeds, but where users are named."""
    differences = {name: over_drifts(done, name, day_1) for name in (*BASELINES, "oracle", "random")}
    if any(len(differences[name]) < 2 for name in BASELINES):
        return ("no verdict: AURO and its baselines need two seeds with all drifts",)
    words, against = {name: _word(differences[name]) for name in BASELINES}, against_table(done)
    won = [name for name in BASELINES if words[name] == "above"]
    lost = [name for name in BASELINES if words[name] == "below"]
    if len(won) == len(BASELINES):
        answer = "AURO wins: it keeps more users than every baseline"
    elif won:
        answer = "AURO wins in part: it keeps more users than " + " and ".join(_NAMES[n] for n in won)
    elif lost:
        answer = "AURO does not win: it keeps fewer users than " + " and ".join(_NAMES[n] for n in lost)
    else:
        answer = "AURO does not win: no difference from any baseline can be told"
    lines = [f"{answer} (day-1 retention of the frozen policy, N2 to N4, {len(differences['td3'])} seeds)."]
    for name, values in differences.items():
        if len(values) > 1:
            row = next(r for r in against if r["part"] == "all" and r["auro_less"] == name)
            low, high = row["day_1_users_low"], row["day_1_users_high"]
            users = "" if low is None else f"; other users, the same policies: [{low:+.4f}, {high:+.4f}]"
            lines.append(f"AURO is {_word(values)} {_NAMES[name]}: {_figures(values)}{users}.")
    for name in BASELINES:
        values = over_drifts(done, name, acting)
        lines.append(f"While it learns, AURO is {_word(values)} {_NAMES[name]}: {_figures(values)}.")
    return (*lines, *_drift_lines(done), *_part_lines(done))


def _drift_lines(done: Sequence[Done]) -> list[str]:
    """Recovery against TD3, and what the abstraction knows."""
    lines = []
    for part in PERIOD:
        ours, theirs = (_by_seed(_recoveries(done, part, name), 3) for name in ("auro", "td3"))
        values = [ours[s] - theirs[s] for s in sorted(ours.keys() & theirs.keys())]
        if len(values) > 1:
            lines.append(f"After the switches of {part} AURO's regret area is {_word(values)} TD3's: {_figures(values)}.")
    for row in abstraction_table(done):
        if row.get("r2_gain_low") is not None:
            knows = "tells" if row["r2_gain_low"] > 0 else "does not tell"
            r2 = f"R2 {row['r2_phi']:.2f} against {row['r2_untrained']:.2f}"
            lines.append(f"phi {knows} more of the drift {row['part']} than an untrained one: {r2}.")
    return lines


def _part_lines(done: Sequence[Done]) -> list[str]:
    """The guard, the ablations, the absence of drift."""
    lines = []
    guards = [row for row in guard_table(done) if row["method"] == "auro"]
    if guards:
        least = min(row["never_below"] for row in guards)
        holds = "holds" if least == 1.0 else "fails"
        acts = sum(row["acts"] for row in guards)
        lines.append(f"The guard {holds}: {least:.2%} of {acts} executed actions have no lower mean value than the actor's own.")
    for row in against_table(done):
        told = (
            row["auro_less"].startswith("auro ") or row["auro_less"] == "supervised" or (row["part"], row["auro_less"]) == ("none", "td3")
        )
        if row["seeds"] > 1 and told:
            values = paired(done, row["part"], "auro", row["auro_less"], day_1) if row["part"] != "all" else []
            if values:
                lines.append(
                    f"{row['part']}: AURO is {_word(values)} {_NAMES.get(row['auro_less'], row['auro_less'])}: {_figures(values)}."
                )
    return lines


def report(done: Sequence[Done]) -> Report:
    """All tables, and the verdict."""
    recovered, each = recovery_tables(done)
    tables = {
        "retention": retention_table(done),
        "against": against_table(done),
        "recovery": recovered,
        "switches": each,
        "abstraction": abstraction_table(done),
        "guard": guard_table(done),
        "published": published_table(done),
    }
    return Report({name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items() if rows}, verdict(done))
