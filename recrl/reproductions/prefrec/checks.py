"""What is asked of PrefRec in its reference environment, in the retention simulator and on logged rows, and whether it was found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from recrl.reproductions.prefrec.found import BASE, HIGHER, LEAST_SEEDS, METHOD, Difference, Found

LEAST_ACCURACY, LEAST_SHARE, TRAP_ACCURACY, LEAST_RANK, LEAST_RANKED = 0.72, 0.005, 0.88, 0.5, 8
COLLAPSED_ESS, LEAST_ROWS_ESS, STRANGE_GAIN = 0.1, 0.3, 0.2
ABLATIONS = ("without value", "expectile .5", "expectile .9", "without pre-training")
_BOTH = ("depth", "gap_days")
_WORDS = {True: "yes", False: "no", None: "open"}


@dataclass(frozen=True)
class Check:
    """What was wanted and what was found; ``met`` is unknown while cells or seeds are missing."""

    name: str
    wanted: str
    found: str
    met: bool | None


def check_table(environment: Found, retention: Found, rows: Found) -> pl.DataFrame:
    """All checks: ``check``, ``wanted``, ``found``, ``met`` (yes, no, open) in the reference environment or on logged rows; and what the
    retention simulator says of the same, ``retention`` and ``retention_met``, empty for logged rows.
    """
    table = []
    for group in _GROUPS:
        for check, beside in zip(group(environment), group(retention), strict=True):
            table.append(_row(check) | {"retention": beside.found, "retention_met": _WORDS[beside.met]})
    table += [_row(check) | {"retention": None, "retention_met": None} for check in _logged(rows)]
    return pl.DataFrame(table, infer_schema_length=None)


def _row(check: Check) -> dict[str, str | None]:
    return {"check": check.name, "wanted": check.wanted, "found": check.found, "met": _WORDS[check.met]}


def _told(differences: dict[str, Difference]) -> str:
    return ", ".join(f"{name} {d}" for name, d in differences.items())


def _all(parts: list[bool | None]) -> bool | None:
    """Whether all hold; one that fails decides, one that is unknown leaves it open."""
    return False if False in parts else None if None in parts else True


def _beats(found: Found, method: str, against: str, quantity: str) -> bool | None:
    """Whether a method is better beyond the interval; unknown with too few seeds."""
    return found.better(method, against, quantity) > 0 if found.over(method, against, quantity).decided else None


def _not_beaten(found: Found, method: str, against: str, quantity: str) -> bool | None:
    """Whether a method is not worse beyond the interval."""
    return found.better(method, against, quantity) >= 0 if found.over(method, against, quantity).decided else None


def _compared(name: str, wanted: str, found: Found, method: str, against: str, holds: Callable[..., bool | None] = _beats) -> Check:
    """Depth and gap of a method beside another's, each with its sign asked for."""
    told = {what: found.over(method, against, what) for what in _BOTH}
    return Check(name, wanted, _told(told), _all([holds(found, method, against, what) for what in _BOTH]))


def _at_least(value: float, least: float) -> bool | None:
    return None if math.isnan(value) else value >= least


def _number(value: float, form: str = ".3f") -> str:
    return "missing" if math.isnan(value) else format(value, form)


def _rewards(found: Found) -> Iterator[Check]:
    tasks = {"both": METHOD, "depth": "PrefRec, task depth", "return": "PrefRec, task return"}
    right = {task: found.mean(name, "all", "reward") for task, name in tasks.items()}
    yield Check(
        "11a accuracy",
        f"at least {LEAST_ACCURACY} of held-out pairs for every task",
        ", ".join(f"{task} {_number(value)}" for task, value in right.items()),
        _all([_at_least(value, LEAST_ACCURACY) for value in right.values()]),
    )
    for name, wanted, order in (
        ("11b pairs", "accuracy does not fall with more pairs", ("100 pairs", "500 pairs", METHOD)),
        ("11c mistakes", "accuracy does not rise with more mistakes", ("30 % mistakes", "20 % mistakes", METHOD, "no mistakes")),
    ):
        steps = [found.over(after, before, "all", "reward") for before, after in itertools.pairwise(order)]
        ends = found.over(order[-1], order[0], "all", "reward")
        values = ", ".join(f"{step} {_number(found.mean(step, 'all', 'reward'))}" for step in order)
        enough = min(step.seeds for step in steps) >= LEAST_SEEDS
        yield Check(name, wanted, values, all(step.sign >= 0 for step in steps) and ends.mean > 0 if enough else None)
    pairs = [(far, close) for far, close in zip(*(found.values(METHOD, kind, "reward") for kind in ("far", "close")), strict=True)]
    thirds = Difference.of([far - close for far, close in pairs])
    yield Check(
        "11d thirds",
        "pairs that differ much are told far more often than those that differ little",
        f"difference {thirds}",
        thirds.sign > 0 if thirds.decided else None,
    )
    gain = {what: found.over("labels by chance", BASE, what) for what in _BOTH}
    chance = [_beats(found, "labels by chance", BASE, what) for what in _BOTH]
    yield Check("11e labels by chance", "no gain over cloning", _told(gain), None if None in chance else not any(chance))


def _actions(found: Found) -> Iterator[Check]:
    share = found.mean(METHOD, "action_share", "reward")
    yield Check(
        "12a action share", f"at least {LEAST_SHARE:.1%} of the reward's variance", _number(share, ".1%"), _at_least(share, LEAST_SHARE)
    )
    strange = found.over("PrefRec, shuffled log", METHOD, "action_share", "reward")
    found_share = found.mean("PrefRec, shuffled log", "action_share", "reward")
    yield Check(
        "12b share of shuffled actions",
        "lower than that of the log's own",
        f"{_number(found_share, '.1%')}, difference {strange:.3f}",
        strange.sign < 0 if strange.decided else None,
    )
    parts = [_beats(found, "PrefRec, shuffled log", "BC, shuffled log", what) for what in _BOTH]
    told = {what: found.over("PrefRec, shuffled log", "BC, shuffled log", what) for what in _BOTH}
    yield Check("12c shuffled log", "no gain over cloning the same log", _told(told), None if None in parts else not any(parts))


def _policies(found: Found) -> Iterator[Check]:
    yield _compared("13a against cloning", "deeper and sooner back than BC", found, METHOD, BASE)
    told = {what: found.over("random reward", BASE, what) for what in _BOTH}
    near = [_beats(found, "random reward", BASE, what) for what in _BOTH]
    yield Check("13b random reward", "no gain over cloning on both", _told(told), None if None in near else not all(near))
    yield _compared("13c random reward, dpg_bc", "worse than cloning", found, BASE, "random reward, dpg_bc")
    for rival in ("PrefRec's optimiser, clicks", "PrefRec's optimiser, clicks, myopic"):
        online = _compared("", "", found, METHOD, rival)
        clicks = found.over(METHOD, rival, "click_rate")
        loses = found.better(METHOD, rival, "click_rate") < 0 if clicks.decided else None
        name = "14 against " + ("myopic clicks" if "myopic" in rival else "clicks")
        told_all = f"{online.found}, click_rate {clicks:.3f}"
        yield Check(name, "deeper and sooner back, fewer clicks", told_all, _all([online.met, loses]))
    yield _compared(
        "15 explicit reward", "not worse than the same optimiser with it", found, METHOD, "PrefRec's optimiser, explicit", _not_beaten
    )


def _ablations(found: Found) -> Iterator[Check]:
    for name in ABLATIONS:
        yield _compared(f"16 {name}", "not better than PrefRec", found, METHOD, name, _not_beaten)
    early = found.over(METHOD, "without pre-training", "early_depth")
    yield Check(
        "16 pre-training, early",
        "depth over the first fifth of updates not below that without",
        f"{early}",
        early.sign >= 0 if early.decided else None,
    )
    deep, soon = (found.over(f"PrefRec, task {task}", BASE, what) for task, what in (("depth", "depth"), ("return", "gap_days")))
    parts = [
        _beats(found, "PrefRec, task depth", BASE, "depth"),
        _beats(found, "PrefRec, task return", BASE, "gap_days"),
    ]
    yield Check("17a steering", "task depth deepens, task return shortens gaps", _told({"depth": deep, "gap_days": soon}), _all(parts))
    yield _compared("17b labels swapped", "worse than cloning on both", found, BASE, "labels swapped")


def _support(found: Found) -> Iterator[Check]:
    for name in ("dpg", "dpg_bc, alpha 2.5"):
        ess, worse = found.mean(name, "ess"), found.over(name, BASE, "depth")
        collapsed = _all([None if math.isnan(ess) else ess < COLLAPSED_ESS, _beats(found, BASE, name, "depth")])
        yield Check(
            f"18 {name}",
            f"effective rows below {COLLAPSED_ESS:.0%}, depth below cloning's",
            f"{_number(ess, '.1%')}, depth {worse}",
            collapsed,
        )
    rank, policies = found.rank_correlation(LEAST_RANKED)
    yield Check(
        "18 NCIS of the gap",
        f"rank correlation of at least {LEAST_RANK} with the gap over {LEAST_RANKED} policies or more",
        f"{_number(rank, '.2f')} over {policies}",
        _at_least(rank, LEAST_RANK),
    )
    trap, right = "task depth, sessions, sum", found.mean("task depth, sessions, sum", "all", "reward")
    caught = _beats(found, trap, BASE, "depth")
    yield Check(
        "18b length trap",
        f"right about {TRAP_ACCURACY} of the pairs, and no deeper than cloning",
        f"{_number(right)}, depth {found.over(trap, BASE, 'depth')}",
        _all([_at_least(right, TRAP_ACCURACY), None if caught is None else not caught]),
    )
    mended = "task depth, sessions, mean"
    yield Check(
        "18b mean instead",
        "deeper than cloning",
        f"depth {found.over(mended, BASE, 'depth')}",
        _beats(found, mended, BASE, "depth"),
    )


def _logged(rows: Found) -> Iterator[Check]:
    for task, method, signals in (
        ("both", METHOD, _BOTH),
        ("depth", "PrefRec, task depth", ("depth",)),
        ("return", "PrefRec, task return", ("gap_days",)),
    ):
        ess = rows.mean(method, "ess")
        parts: list[bool | None] = [_at_least(ess, LEAST_ROWS_ESS)]
        told = {signal: Difference.of(rows.values(method, "gain", f"gain_{signal}")) for signal in signals}
        for signal, gain in told.items():
            good = (gain.sign > 0 if HIGHER[signal] else gain.sign < 0) and abs(gain.mean) <= STRANGE_GAIN
            parts.append(good if gain.decided else None)
        shares = ", ".join(f"{signal} {gain:.2%}" for signal, gain in told.items())
        yield Check(
            f"19 KuaiRand, task {task}",
            f"better than the log by NCIS, by no more than {STRANGE_GAIN:.0%}, effective rows at least {LEAST_ROWS_ESS:.0%}",
            f"{shares}, effective rows {_number(ess, '.1%')}",
            _all(parts),
        )


_GROUPS = (_rewards, _actions, _policies, _ablations, _support)
