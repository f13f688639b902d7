"""What the finished cells of the TSCAC study say: tables, and a verdict that follows from their numbers, whichever way it falls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from recrl.reproductions.study import Done, Published, Report, mean_interval, paired
from recrl.reproductions.tscac.kuairand import LEAST_EVENTS
from recrl.reproductions.tscac.rows import PROTECTED, SIGNALS

RIVALS = ("rcpo multi-critic", "joint critic")
ESTIMATORS = ("ncis", "snips", "dr")
SECOND_HAND = "notes on the paper, capped NCIS on KuaiRand-27K, table 2"
PUBLISHED = (
    *(
        Published("tscac", name, value, "likely", SECOND_HAND)
        for name, value in (("watch_seconds", 0.0223), ("click", 0.0435), ("like", 0.188), ("comment", 0.156), ("hate", -0.1883))
    ),
    Published("rcpo", "watch_seconds", 0.0170, "likely", SECOND_HAND),
    Published("rcpo multi-critic", "watch_seconds", 0.0117, "uncertain", "recollection of the same table"),
    Published("pareto", "watch_seconds", -0.074, "likely", SECOND_HAND),
)
"""Relative to cloning."""

Result = Mapping[str, Any]
Value = Callable[[Result], float]


def report(done: Sequence[Done], *, kuairand: bool) -> Report:
    """Tables and verdict of what there is.

    Args:
        done: finished cells.
        kuairand: whether KuaiRand rows were asked for.
    """
    tables = {
        "tscac_simulator": simulator_table(done),
        "tscac_constrained": constrained_table(done),
        "tscac_by_value": simulator_table(by_value(done)),
        "tscac_constrained_by_value": constrained_table(by_value(done)),
        "tscac_lambda": lambda_table(done),
    }
    verdict = [*simulator_verdict(done), *lambda_verdict(tables["tscac_lambda"])]
    if kuairand:
        tables |= {
            "tscac_kuairand": kuairand_table(done),
            "tscac_measurable": measurable_table(done),
            "tscac_constants": constants_table(done),
        }
        verdict += kuairand_verdict(done)
    else:
        verdict.append("KuaiRand rows: left out, their folder was not given (--root)")
    tables["tscac_published"] = published_table(done)
    return Report({name: table for name, table in tables.items() if table.height}, tuple(verdict))


# ---------------------------------------------------------------- simulator


def true(signal: str) -> Value:
    """A signal's true mean a request."""
    return lambda result: float(result["truth"][signal])


def by_value(done: Sequence[Done]) -> list[Done]:
    """Cells of the simulator as if options had been chosen by estimates alone, without their intervals."""
    return [
        replace(d, result={**d.result, "truth": d.result.get("truth_by_value", d.result["truth"])}) for d in done if "truth" in d.result
    ]


def simulator_table(done: Sequence[Done]) -> pl.DataFrame:
    """True means a request with intervals over seeds, and what it is above cloning, paired (slack, of what is protected)."""
    rows = []
    for method in _methods(done, "simulator"):
        results = _results(done, "simulator", method)
        for signal in SIGNALS:
            value = mean_interval([true(signal)(r) for r in results])
            row = {"method": method, "seeds": len(results), "signal": signal, **_interval("value", value)}
            above = paired(done, "simulator", method, "bc", true(signal)) if method != "bc" else []
            rows.append({**row, **_interval("above_bc", mean_interval(above) if above else None)})
    return pl.DataFrame(rows, infer_schema_length=None)


def constrained(result: Result, bc: Result) -> float:
    """The constrained objective: watch time where nothing protected is below cloning's; else cloning's own, which then stays deployed."""
    kept = all(true(name)(result) >= true(name)(bc) for name in PROTECTED)
    return true("watch_seconds")(result if kept else bc)


def constrained_table(done: Sequence[Done]) -> pl.DataFrame:
    """The constrained objective of each method, the seeds in which it holds, and TSCAC's lead over it."""
    found = {m: _constrained(done, m) for m in _methods(done, "simulator")}
    bc = {d.cell.seed: d.result for d in done if (d.cell.part, d.cell.method) == ("simulator", "bc")}
    rows = []
    for method, each in found.items():
        if not each:
            continue
        kept = sum(
            all(true(name)(d.result) >= true(name)(bc[d.cell.seed]) for name in PROTECTED)
            for d in done
            if (d.cell.part, d.cell.method) == ("simulator", method) and d.cell.seed in bc
        )
        lead = [found["tscac"][s] - each[s] for s in each if s in found.get("tscac", {})] if method != "tscac" else []
        row = {"method": method, "seeds": len(each), "constraints_kept_in": kept, **_interval("value", mean_interval(list(each.values())))}
        rows.append({**row, **_interval("tscac_above", mean_interval(lead) if lead else None)})
    return pl.DataFrame(rows, infer_schema_length=None)


def _constrained(done: Sequence[Done], method: str) -> dict[int, float]:
    held = {d.cell.seed: d.result for d in done if (d.cell.part, d.cell.method) == ("simulator", "bc")}
    mine = {d.cell.seed: d.result for d in done if (d.cell.part, d.cell.method) == ("simulator", method)}
    return {seed: constrained(mine[seed], held[seed]) for seed in sorted(mine.keys() & held.keys())}


def simulator_verdict(done: Sequence[Done]) -> list[str]:
    """Whether watch time is above cloning's with nothing protected below it, and who wins on the constrained objective."""
    above = {s: paired(done, "simulator", "tscac", "bc", true(s)) for s in SIGNALS}
    if len(above["watch_seconds"]) < 2:
        return ["simulator: TSCAC and cloning share fewer than two seeds, nothing can be said yet"]
    mean, low, high = mean_interval(above["watch_seconds"])
    below = [s for s in PROTECTED if mean_interval(above[s])[2] < 0]
    slack = ", ".join(f"{s} {_spread(mean_interval(above[s]))}" for s in PROTECTED)
    answer = "yes" if low > 0 and not below else "no"
    out = [
        f"simulator: watch time above cloning's with nothing protected below it beyond its interval: {answer}. Watch time "
        f"{_spread((mean, low, high))} s a request over {len(above['watch_seconds'])} seeds; slack: {slack}"
        + (f"; below: {', '.join(below)}" if below else "")
    ]
    mine = _constrained(done, "tscac")
    for rival in RIVALS:
        theirs = _constrained(done, rival)
        lead = [mine[s] - theirs[s] for s in mine if s in theirs]
        if len(lead) < 2:
            continue
        mean, low, high = mean_interval(lead)
        said = "wins against" if low > 0 else "loses against" if high < 0 else "is not told apart from"
        out.append(f"simulator, constrained objective: TSCAC {said} {rival}, {_spread((mean, low, high))} s a request")
    return out


def lambda_table(done: Sequence[Done]) -> pl.DataFrame:
    """True means of TSCAC with each lambda, and its divergence from the policies of stage one, over seeds."""
    seen: dict[float, list[Result]] = {}
    for result in _results(done, "simulator", "tscac"):
        for one in result["tried"]:
            seen.setdefault(float(one["option"]["multipliers"][0]), []).append(one)
    rows = []
    for lam in sorted(seen):
        means = {s: float(np.mean([one["truth"][s] for one in seen[lam]])) for s in SIGNALS}
        away = {f"kl_{s}": float(np.mean([one["divergence"][s] for one in seen[lam]])) for s in PROTECTED}
        rows.append({"lambda": lam, "seeds": len(seen[lam]), **means, **away, "kl_mean": float(np.mean(list(away.values())))})
    return pl.DataFrame(rows, infer_schema_length=None)


def lambda_verdict(table: pl.DataFrame) -> list[str]:
    """Whether watch time and divergence fall as lambda grows."""
    if table.height < 3:
        return []
    said = {name: "falls" if bool((table[column].diff().drop_nulls() <= 0).all()) else "does not fall throughout"
            for name, column in (("watch time", "watch_seconds"), ("the mean divergence from stage one", "kl_mean"))}  # fmt: skip
    grid = ", ".join(f"{x:g}" for x in table["lambda"])
    return [f"simulator, lambda {grid}: " + "; ".join(f"{name} {how} as lambda grows" for name, how in said.items())]


# ---------------------------------------------------------------- KuaiRand rows


def estimated(signal: str, estimator: str = "ncis") -> Value:
    """A signal's estimate on test rows."""
    return lambda result: float(result["test"][signal][estimator]["value"])


def measured(done: Sequence[Done]) -> list[str]:
    """Signals with enough test events: watch time, and behaviours seen at least :data:`LEAST_EVENTS` times."""
    counts = _events(done)
    return [s for s in SIGNALS if s == "watch_seconds" or counts.get(s, 0) >= LEAST_EVENTS]


def kuairand_table(done: Sequence[Done]) -> pl.DataFrame:
    """Estimates with user-level intervals (means over seeds of value and bounds), effective rows, and what is above cloning, paired."""
    rows = []
    for method in _methods(done, "kuairand"):
        results = _results(done, "kuairand", method)
        for signal in measured(done):
            for estimator in ESTIMATORS:
                ends = [np.mean([r["test"][signal][estimator][e] for r in results]) for e in ("value", "lower", "upper")]
                value = estimated(signal, estimator)
                above = paired(done, "kuairand", method, "bc", value) if method != "bc" else []
                base = np.mean([value(r) for r in _results(done, "kuairand", "bc")] or [math.nan])
                rows.append(
                    {
                        "method": method,
                        "seeds": len(results),
                        "signal": signal,
                        "estimator": estimator,
                        **_interval("value", (float(ends[0]), float(ends[1]), float(ends[2]))),
                        "effective_rows": float(np.mean([r["test"][signal]["effective_rows"] for r in results])),
                        **_interval("above_bc", mean_interval(above) if above else None),
                        "share_above_bc": float(np.mean(above) / base) if above else None,
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def measurable_table(done: Sequence[Done]) -> pl.DataFrame:
    """Test events of each behaviour, and whether it is judged."""
    return pl.DataFrame([{"signal": name, "test_events": n, "judged": n >= LEAST_EVENTS} for name, n in _events(done).items()])


def constants_table(done: Sequence[Done]) -> pl.DataFrame:
    """The sweep over policies that always show one video: watch time by capped NCIS."""
    logged = _results(done, "kuairand", "logged")
    return pl.DataFrame([{"policy": name, "watch_seconds": value} for name, value in logged[0]["constants"].items()] if logged else [])


def kuairand_verdict(done: Sequence[Done]) -> list[str]:
    """Off-policy: TSCAC against cloning, its rivals and the best constant policy."""
    value = estimated("watch_seconds")
    above = paired(done, "kuairand", "tscac", "bc", value)
    logged = _results(done, "kuairand", "logged")
    if len(above) < 2 or not logged:
        return ["KuaiRand rows: TSCAC and cloning share fewer than two seeds, nothing can be said yet"]
    results = _results(done, "kuairand", "tscac")
    mine = np.mean([value(r) for r in results])
    low, high = (float(np.mean([r["test"]["watch_seconds"]["ncis"][e] for r in results])) for e in ("lower", "upper"))
    least = mean_interval(above)[1]
    base = float(np.mean([value(r) for r in _results(done, "kuairand", "bc")]))
    clear = least > 0 and low > base
    out = [
        f"KuaiRand rows, capped NCIS: watch time of TSCAC is {'above' if clear else 'not clearly above'} cloning's: "
        f"{_spread(mean_interval(above))} s over seeds; by users {mine:.4g} [{low:.4g}, {high:.4g}] beside {base:.4g}"
    ]
    for signal in measured(done)[1:]:
        gain = mean_interval(paired(done, "kuairand", "tscac", "bc", estimated(signal)))
        if gain[2] < 0:
            out.append(f"KuaiRand rows: {signal} is below cloning's, {_spread(gain)}")
    for rival in RIVALS:
        lead = paired(done, "kuairand", "tscac", rival, value)
        if len(lead) > 1:
            gain = mean_interval(lead)
            said = "above" if gain[1] > 0 else "below" if gain[2] < 0 else "not told apart from"
            out.append(f"KuaiRand rows: watch time of TSCAC is {said} {rival}'s, {_spread(gain)} s over seeds")
    best = float(logged[0]["constants"]["chosen_on_validation"])
    said = "no more than popularity would give" if low <= best else "more than popularity alone gives"
    out.append(f"KuaiRand rows: always showing the video chosen on validation rows gets {best:.4g} s; TSCAC's gain is {said}")
    few = [name for name, n in _events(done).items() if n < LEAST_EVENTS]
    out.append(f"KuaiRand rows are nearly a bandit (most sessions are one row); not measurable there: {', '.join(few) or 'nothing'}")
    return out


def published_table(done: Sequence[Done]) -> pl.DataFrame:
    """Published numbers relative to cloning, their certainty, and ours beside them: other rows, another split, another evaluation."""
    rows = []
    for one in PUBLISHED:
        known = one.quantity in measured(done) if _events(done) else False
        above = paired(done, "kuairand", one.method, "bc", estimated(one.quantity)) if known else []
        base = [estimated(one.quantity)(r) for r in _results(done, "kuairand", "bc")] if known else []
        rows.append(
            {
                "method": one.method,
                "signal": one.quantity,
                "published_share_above_bc": one.value,
                "certainty": one.certainty,
                "ours": float(np.mean(above) / np.mean(base)) if above else None,
                "source": one.source,
            }
        )
    return pl.DataFrame(rows, schema_overrides={"ours": pl.Float64})


# ---------------------------------------------------------------- shared


def _methods(done: Sequence[Done], part: str) -> list[str]:
    return list(dict.fromkeys(d.cell.method for d in sorted(done, key=lambda d: not d.cell.primary) if d.cell.part == part))


def _results(done: Sequence[Done], part: str, method: str) -> list[Result]:
    return [d.result for d in done if (d.cell.part, d.cell.method) == (part, method)]


def _events(done: Sequence[Done]) -> dict[str, int]:
    logged = _results(done, "kuairand", "logged")
    return dict(logged[0]["events"]) if logged else {}


def _interval(name: str, found: tuple[float, float, float] | None) -> dict[str, float | None]:
    ends = (None, None, None) if found is None else tuple(x if math.isfinite(x) else None for x in found)
    return dict(zip((name, f"{name}_lower", f"{name}_upper"), ends, strict=True))


def _spread(found: tuple[float, float, float]) -> str:
    return "{:+.3g} [{:+.3g}, {:+.3g}]".format(*found)
