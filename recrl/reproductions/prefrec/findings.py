"""What the finished cells of the PrefRec study say: tables of policies, rewards and estimates, and a verdict computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from recrl.reproductions.prefrec.checks import check_table
from recrl.reproductions.prefrec.found import BASE, METHOD, Found
from recrl.reproductions.prefrec.recipes import RECIPES, Taught
from recrl.reproductions.study import Done, Published, Report

_KINDS = ("all", "within user", "across users", "close", "far", "given")
_PILOT = "the environment's own pilot, other maps; no number of the paper could be retrieved"


def _pilot(method: str, depth: float, gap_days: float | None) -> list[Published]:
    gap = [] if gap_days is None else [Published(method, "gap_days", gap_days, "certain", _PILOT)]
    return [Published(method, "depth", depth, "certain", _PILOT), *gap]


PUBLISHED: tuple[Published, ...] = tuple(
    number
    for row in (
        ("BC", 9.65, 2.325),
        ("PrefRec", 13.9, 1.775),
        ("PrefRec, task depth", 12.0, None),
        ("IQL, explicit", 11.45, 2.03),
        ("TD3+BC, explicit", 12.25, 1.91),
        ("random reward", 10.1, 2.295),
        ("random reward, dpg_bc", 7.95, 2.82),
        ("PrefRec's optimiser, clicks", 7.0, 3.125),
        ("PrefRec's optimiser, clicks, myopic", 5.55, 3.87),
        ("labels swapped", 8.0, 2.64),
        ("dpg", 2.15, 5.65),
        ("dpg_bc, alpha 2.5", 7.0, 3.15),
        ("TD3, explicit", 2.25, 5.4),
        ("task depth, sessions, sum", 8.4, None),
    )
    for number in _pilot(*row)
)
"""Means over the pilot's one or two seeds."""


def findings(done: Sequence[Done]) -> Report:
    """Tables and verdict."""
    environment, retention, rows = (Found(done, part) for part in ("environment", "retention", "kuairand"))
    tables = {"policies": _policies(environment), "rewards": _rewards(environment), "retention": _policies(retention)}
    tables["retention_rewards"] = _rewards(retention)
    checks = check_table(environment, retention, rows)
    verdict = [*_sentences(environment, "In the reference environment"), *_sentences(retention, "In the retention simulator")]
    verdict += _of_rows(rows)
    verdict.append(_checked(checks, "met"))
    verdict.append(f"In the retention simulator: {_checked(checks, 'retention_met')}")
    verdict.append("None of the paper's own numbers could be retrieved: the published ones beside ours are the environment's pilot's.")
    more = {"kuairand": _rows(rows), "checks": checks, "published": _published(environment)}
    return Report({**tables, **more}, tuple(verdict))


def _policies(found: Found) -> pl.DataFrame:
    rows = []
    for name in RECIPES:
        if not found.values(name, "depth"):
            continue
        row: dict[str, Any] = {"policy": name, "seeds": len(found.values(name, "depth"))}
        row |= {what: _finite(found.mean(name, what)) for what in ("depth", "gap_days", "day1", "click_rate")}
        for what in ("depth", "gap_days"):
            against = found.over(name, BASE, what)
            row |= {f"{what}_over_bc": _finite(against.mean), f"{what}_low": _finite(against.low), f"{what}_high": _finite(against.high)}
        rows.append(row | {what: _finite(found.mean(name, what)) for what in ("ess", "ncis_gap_days")})
    return _table(rows)


def _rows(found: Found) -> pl.DataFrame:
    """Gains as shares of the log's value; ``low`` and ``high``: intervals over users, means over seeds; ``sixth``: the other spread."""
    table = []
    for name in RECIPES:
        if not found.values(name, "ess"):
            continue
        row: dict[str, Any] = {"policy": name, "seeds": len(found.values(name, "ess")), "ess": found.mean(name, "ess")}
        for signal in ("depth", "gap_days"):
            told = {what: found.mean(name, what, f"gain_{signal}") for what in ("logged", "gain", "low", "high", "pooled_gain")}
            row |= {f"{signal}_{what}": value for what, value in told.items()}
        table.append(row | {"ess_sixth": found.mean(name, "ess", "sixth")})
    return _table(table)


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A column that nobody knows yet is one of numbers, too."""
    table = pl.DataFrame(rows, infer_schema_length=None)
    return table.with_columns(pl.col(name).cast(pl.Float64) for name, kind in table.schema.items() if kind == pl.Null)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _rewards(found: Found) -> pl.DataFrame:
    """One row a reward as pre-training left it: methods that share one show it once."""
    rows, told = [], set()
    for name, recipe in RECIPES.items():
        reward = recipe.reward
        if not isinstance(reward, Taught) or reward.pretraining == "none" or reward in told or not found.values(name, "all", "reward"):
            continue
        told.add(reward)
        row: dict[str, Any] = {"reward": name, "seeds": len(found.values(name, "all", "reward"))}
        rows.append(row | {kind: _finite(found.mean(name, kind, "reward")) for kind in (*_KINDS, "rank_correlation", "action_share")})
    return _table(rows)


def _published(found: Found) -> pl.DataFrame:
    rows = [
        {
            "method": p.method,
            "quantity": p.quantity,
            "published": p.value,
            "ours": _finite(found.mean(p.method, p.quantity)),
            "certainty": p.certainty,
            "source": p.source,
        }
        for p in PUBLISHED
    ]
    return _table(rows)


# ---------------------------------------------------------------- verdict

_NAMED = {"depth": "requests a session", "gap_days": "days away"}
_SAID = {1: "better than", -1: "worse than", 0: "not told apart from"}


def _sentences(found: Found, where: str) -> list[str]:
    if not (found.values(METHOD, "depth") and found.values(BASE, "depth")):
        return [f"{where} PrefRec and behaviour cloning are not both there yet."]
    against = {what: found.over(METHOD, BASE, what) for what in _NAMED}
    seeds = against["depth"].seeds
    both = {found.better(METHOD, BASE, what) for what in _NAMED}
    if seeds < 2:
        headline = "one seed shows directions and no verdict"
    elif both == {1}:
        headline = "PrefRec beats behaviour cloning on depth and on return gap"
    elif -1 in both:
        headline = "PrefRec is worse than behaviour cloning" + (" on one of depth and return gap" if both != {-1} else "")
    else:
        headline = "PrefRec does not beat behaviour cloning on both depth and return gap" + ("" if 1 in both else ", on neither")
    numbers = "; ".join(
        f"{found.mean(METHOD, what):.2f} {unit} against {found.mean(BASE, what):.2f}, difference {against[what]}"
        for what, unit in _NAMED.items()
    )
    out = [f"{where}, {seeds} seed{'s' * (seeds > 1)}: {headline}: {numbers}."]
    for rival in (name for name, recipe in RECIPES.items() if recipe.primary and name not in (METHOD, BASE)):
        if not found.values(rival, "depth"):
            continue
        parts = [f"{what.replace('_', ' ')} {_judged(found, rival, what)}" for what in _NAMED]
        out.append(f"{where}, against {rival}: {', '.join(parts)}.")
    return out


def _of_rows(found: Found) -> list[str]:
    if not found.values(METHOD, "ess"):
        return []
    gains = {what: found.mean(METHOD, "gain", f"gain_{what}") for what in _NAMED}
    told = ", ".join(f"{what.replace('_', ' ')} {gain:+.2%}" for what, gain in gains.items())
    ess = found.mean(METHOD, "ess")
    return [f"On KuaiRand rows, by NCIS over the log: {told}, {ess:.0%} of the rows effective. An estimate, no measurement."]


def _judged(found: Found, rival: str, quantity: str) -> str:
    """How PrefRec does beside a rival; one seed gives the difference alone."""
    difference = found.over(METHOD, rival, quantity)
    return f"{_SAID[found.better(METHOD, rival, quantity)]} it ({difference})" if difference.seeds > 1 else f"{difference}"


def _checked(checks: pl.DataFrame, column: str) -> str:
    """How many are met, and which are not, where they were asked."""
    by = {answer: checks.filter(pl.col(column) == answer)["check"].to_list() for answer in ("yes", "no", "open")}
    text = f"{len(by['yes'])} of {sum(map(len, by.values()))} checks are met"
    for answer, word in (("no", "not met"), ("open", "open for want of cells or seeds")):
        text += f"; {word}: {', '.join(by[answer])}" if by[answer] else ""
    return text + "."
