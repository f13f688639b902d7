"""What the finished cells of the TSCAC study say: tables, and a verdict that follows from their numbers, whichever way it falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from recrl.reproductions.study import Done, Report, mean_interval, paired
from recrl.reproductions.tscac.cells import Result, Value, columns_of, methods, options_table, options_verdict, results_of, spread
from recrl.reproductions.tscac.report_rows import (
    RIVALS,
    constants_table,
    kuairand_table,
    kuairand_verdict,
    measurable_table,
    published_table,
)
from recrl.reproductions.tscac.rows import PROTECTED, SIGNALS


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
        "tscac_options": options_table(done),
    }
    verdict = [*simulator_verdict(done), *lambda_verdict(tables["tscac_lambda"]), *options_verdict(tables["tscac_options"])]
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
    for method in methods(done, "simulator"):
        results = results_of(done, "simulator", method)
        for signal in SIGNALS:
            value = mean_interval([true(signal)(r) for r in results])
            row = {"method": method, "seeds": len(results), "signal": signal, **columns_of("value", value)}
            gain = paired(done, "simulator", method, "bc", true(signal)) if method != "bc" else []
            rows.append({**row, **columns_of("above_bc", mean_interval(gain) if gain else None)})
    return pl.DataFrame(rows, infer_schema_length=None)


def constrained(result: Result, bc: Result) -> float:
    """The constrained objective: watch time where nothing protected is below cloning's; else cloning's own, which then stays deployed."""
    kept = all(true(name)(result) >= true(name)(bc) for name in PROTECTED)
    return true("watch_seconds")(result if kept else bc)


def constrained_table(done: Sequence[Done]) -> pl.DataFrame:
    """The constrained objective of each method, the seeds in which it holds, and TSCAC's lead over it."""
    found = {m: _constrained(done, m) for m in methods(done, "simulator")}
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
        row = {"method": method, "seeds": len(each), "constraints_kept_in": kept, **columns_of("value", mean_interval(list(each.values())))}
        rows.append({**row, **columns_of("tscac_above", mean_interval(lead) if lead else None)})
    return pl.DataFrame(rows, infer_schema_length=None)


def _constrained(done: Sequence[Done], method: str) -> dict[int, float]:
    held = {d.cell.seed: d.result for d in done if (d.cell.part, d.cell.method) == ("simulator", "bc")}
    mine = {d.cell.seed: d.result for d in done if (d.cell.part, d.cell.method) == ("simulator", method)}
    return {seed: constrained(mine[seed], held[seed]) for seed in sorted(mine.keys() & held.keys())}


def simulator_verdict(done: Sequence[Done]) -> list[str]:
    """Whether watch time is above cloning's with nothing protected below it, and who wins on the constrained objective."""
    gain = {s: paired(done, "simulator", "tscac", "bc", true(s)) for s in SIGNALS}
    if len(gain["watch_seconds"]) < 2:
        return ["simulator: TSCAC and cloning share fewer than two seeds, nothing can be said yet"]
    mean, low, high = mean_interval(gain["watch_seconds"])
    below = [s for s in PROTECTED if mean_interval(gain[s])[2] < 0]
    slack = ", ".join(f"{s} {spread(mean_interval(gain[s]))}" for s in PROTECTED)
    answer = "yes" if low > 0 and not below else "no"
    out = [
        f"simulator: watch time above cloning's with nothing protected below it beyond its interval: {answer}. Watch time "
        f"{spread((mean, low, high))} s a request over {len(gain['watch_seconds'])} seeds; slack: {slack}"
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
        out.append(f"simulator, constrained objective: TSCAC {said} {rival}, {spread((mean, low, high))} s a request")
    return out


def lambda_table(done: Sequence[Done]) -> pl.DataFrame:
    """True means of TSCAC with each lambda and imitation, and its divergence from the policies of stage one, over seeds."""
    seen: dict[tuple[float, float], list[Result]] = {}
    for result in results_of(done, "simulator", "tscac"):
        for one in result["tried"]:
            seen.setdefault((float(one["option"]["imitation"]), float(one["option"]["multipliers"][0])), []).append(one)
    rows = []
    for (imitation, lam), held in sorted(seen.items()):
        means = {s: float(np.mean([one["truth"][s] for one in held])) for s in SIGNALS}
        away = {f"kl_{s}": float(np.mean([one["divergence"][s] for one in held])) for s in PROTECTED}
        mean = float(np.mean(list(away.values())))
        rows.append({"imitation": imitation, "lambda": lam, "seeds": len(held), **means, **away, "kl_mean": mean})
    return pl.DataFrame(rows, infer_schema_length=None)


def lambda_verdict(table: pl.DataFrame) -> list[str]:
    """Whether watch time and divergence fall as lambda grows, for each imitation."""
    out = []
    for imitation in table["imitation"].unique(maintain_order=True) if table.height else ():
        part = table.filter(imitation=imitation)
        if part.height < 3:
            continue
        said = {name: "falls" if bool((part[column].diff().drop_nulls() <= 0).all()) else "does not fall throughout"
                for name, column in (("watch time", "watch_seconds"), ("the mean divergence from stage one", "kl_mean"))}  # fmt: skip
        grid = ", ".join(f"{x:g}" for x in part["lambda"])
        told = "; ".join(f"{name} {how} as lambda grows" for name, how in said.items())
        out.append(f"simulator, imitation {imitation:g}, lambda {grid}: {told}")
    return out
