"""Plain sentences that read each stage's tables: what was found, and how sure it is. Pages and report print them as text."""

from __future__ import annotations

import math

import polars as pl

from dashboards.estimated import Kind, apart, name, unit
from dashboards.formats import between, clip, count, day, number, quantity, share, signed_share, words


def data(summary: pl.DataFrame, depth: pl.DataFrame | None, gaps: pl.DataFrame | None) -> str:
    """What the log is, how deep its sessions are, how soon its users return."""
    if summary.is_empty():
        return "The data summary is empty."
    row = summary.row(0, named=True)
    text = [
        f"{clip(row['name'])} holds {count(row['rows'])} rows of {count(row['users'])} users on {count(row['items'])} items, "
        f"{day(row['first_ms'])} to {day(row['last_ms'])}."
    ]
    if depth is not None and depth["sessions"].sum():
        middle = depth.sort("depth").filter(pl.col("sessions").cum_sum() >= depth["sessions"].sum() / 2)["depth"][0]
        text.append(f"Half of the {count(row['sessions'])} sessions hold at most {count(middle)} request{'s' if middle != 1 else ''}.")
    if gaps is not None and gaps.height:
        first = gaps.sort("day").row(0, named=True)
        text.append(
            f"Of the completed return gaps {share(first['completed_share'], 0)} are one day; counting the users who did not come back, "
            f"the chance to return on the next day is {share(first['hazard'], 0)}."
        )
    return " ".join(text)


def training(curves: pl.DataFrame) -> str:
    """Where each learner's first loss began and ended; ``curves`` holds ``stream, name, step, value``."""
    text = []
    for (stream,) in curves.select("stream").unique(maintain_order=True).iter_rows():
        rows = curves.filter(pl.col("stream") == stream)
        names = rows["name"].unique(maintain_order=True).to_list()
        name = next((name for name in names if "loss" in name), names[0])
        line = rows.filter(pl.col("name") == name).sort("step")
        first, last = number(line["value"][0]), number(line["value"][-1])
        learner = clip(stream.removeprefix("train-"))
        text.append(f"{learner}, at update {count(line['step'][-1])}: {words(name)} went from {first} to {last}.")
    return " ".join(text) or "No training metrics were logged."


def estimates(frame: pl.DataFrame, signal: str) -> str:
    """Which policy the log can vouch for on ``signal``, and by how much; a sentence for items, and one for whole sessions."""
    rows = frame.filter((pl.col("signal") == signal) & pl.col("value").is_finite())
    said = [_estimates(part, signal, kind) for kind, part in apart(rows).items()]
    return " ".join(said) or f"No policy was estimated on {words(signal)}."


def _estimates(rows: pl.DataFrame, signal: str, kind: Kind) -> str:
    logged, policies = rows.filter(pl.col("policy") == "logged"), rows.filter(pl.col("policy") != "logged")
    usable = policies.filter(pl.col("verdict") != "do not use")
    asked = name(signal, kind)
    if usable.is_empty():
        return f"No estimate of {asked} may be used: too little of the log stands behind each. Read the reasons."
    best = usable.sort("value", descending=True).row(0, named=True)
    value, ends = quantity(best["value"], unit(signal, kind)), between(best["lower"], best["upper"], unit(signal, kind))
    text = (
        f"On {asked} the highest usable estimate is {clip(best['policy'])} by {clip(best['estimator'])}: "
        f"{value}, {share(best['level'], 0)} interval {ends} ({clip(best['verdict'])})"
    )
    if logged.is_empty() or not math.isfinite(best["lower"]):
        return f"{text}."
    base = logged["value"][0]
    beside = f"the logged {quantity(base, unit(signal, kind))}"
    if best["lower"] > base:
        return f"{text}; its interval lies above {beside}."
    if best["upper"] < base:
        return f"{text}; its interval lies below {beside}."
    return f"{text}; the interval includes {beside}, so no gain is shown."


def reliability(frame: pl.DataFrame) -> str:
    """Whether the logging policy's propensities mean what they say; ``estimates_reliability``."""
    off = frame.filter((pl.col("ratio") - 1).abs() > pl.max_horizontal(pl.lit(0.5), 3 * pl.col("error")))
    if off.is_empty():
        return "Propensities hold: in no bin are logged actions off what is stated by more than half."
    least, most = frame.select(low=pl.col("ratio").min(), high=pl.col("ratio").max()).row(0)
    return (
        f"△ Propensities are off by more than half in {off.height} of {frame.height} bins "
        f"({number(least)} to {number(most)} times as often as stated): weights are off by as much."
    )


def overlap(frame: pl.DataFrame) -> str:
    """Where the log cannot speak for one policy; rows of ``estimates_overlap``."""
    holes = frame.filter(pl.col("hole"))
    who = clip(frame["policy"][0]) if frame.height else "policy"
    if holes.is_empty():
        return f"{who}: no hole; the log can speak for every group of items that the policy shows."
    lost, found = share(float(holes["target_share"].sum()), 0), f"{holes.height} hole{'s' if holes.height > 1 else ''}"
    return f"✕ {who}: {found}. {lost} of what it would show lies where the log shows less than half of it."


def best_arm(rows: pl.DataFrame) -> str:
    """The arm of one scenario with the most metrics better, less those worse; the first metric's effect breaks a tie."""
    score = pl.col("verdict").replace_strict({"better": 1, "worse": -1}, default=0, return_dtype=pl.Int64).sum()
    direction = pl.when(pl.col("higher_is_better")).then(1.0).otherwise(-1.0)
    others = rows.filter(pl.col("arm") != pl.col("baseline"))
    ranked = others.group_by("arm", maintain_order=True).agg(score=score, first=(pl.col("effect") * direction).fill_nan(0.0).first())
    return str(ranked.sort("score", "first", descending=True, maintain_order=True)["arm"][0]) if ranked.height else ""


def ab(metrics: pl.DataFrame, scenario: str) -> str:
    """Which arm does best in the scenario, and on how much."""
    rows = metrics.filter((pl.col("scenario") == scenario) & (pl.col("arm") != pl.col("baseline")))
    arm = best_arm(rows)
    if not arm:
        return "No arm was compared with the baseline."
    mine = rows.filter(pl.col("arm") == arm)
    better, worse = (mine.filter(pl.col("verdict") == verdict).height for verdict in ("better", "worse"))
    arms = rows["arm"].n_unique()
    who = f"Of {arms} arms, {clip(arm)} does best" if arms > 1 else clip(arm)
    return f"{who} against {clip(mine['baseline'][0])}: better on {better} of {mine.height} metrics, worse on {worse}."


def ab_arm(rows: pl.DataFrame) -> str:
    """What one arm did in one scenario: better, worse, not shown."""
    found = {verdict: rows.filter(pl.col("verdict") == verdict) for verdict in ("better", "worse", "no difference shown")}
    parts = [f"{verdict} on {_listed(frame)}" for verdict, frame in found.items() if frame.height]
    text = "; ".join(parts) or "nothing measured"
    return f"{text[:1].upper()}{text[1:]}."


def _listed(frame: pl.DataFrame) -> str:
    shown = [
        words(row["metric"]) + (f" ({signed_share(row['relative_effect'])})" if math.isfinite(row["relative_effect"]) else "")
        for row in frame.head(4).iter_rows(named=True)
    ]
    more = frame.height - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
