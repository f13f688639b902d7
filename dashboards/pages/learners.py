"""The training page's views of particular learners."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboards import controls, learned, queries, show, units
from dashboards.figures import learners as figures
from dashboards.formats import clip, count, number, plain, share, words
from dashboards.look import Interval
from dashboards.pages import pairs
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

_MOST = 6


def trade_offs(run: RunFolder, curves: pl.DataFrame) -> None:
    """Slack, multipliers and divergences of constraints, and the main response against each other one."""
    names = curves["name"].unique(maintain_order=True).to_list()
    main, rates = learned.main_response(names), learned.of_kind(names, "rate_")
    learner = _learner(curves, "rate_")
    mine = curves.filter(pl.col("stream") == learner)
    names = mine["name"].unique(maintain_order=True).to_list()
    st.markdown(plain(_holding(mine, names), 700))
    drawn: list[show.Asked] = []
    slacks = " or ".join(dict.fromkeys(units.unit_of(name) for name in names if name.startswith("slack_")))
    for prefix, title, subtitle, axis in (
        ("slack_", "Slack of each constraint", "above the line: the bound holds; band: least to largest", f"slack ({slacks})"),
        ("kl_", "Distance from each auxiliary policy", "KL of the policy from that of stage one, estimated", "KL divergence (nats)"),
        ("lambda_", "Weight of each constraint", "large: stays near the auxiliary policy or its bound", "multiplier lambda (no unit)"),
    ):
        if found := [name for name in names if name.startswith(prefix)]:
            drawn.append((prefix, figures.lines, mine, found, title, subtitle, axis, len(prefix), prefix == "slack_"))
    show.side_by_side(drawn)
    if main is None or len(rates) < 2:
        st.caption("This learner wrote no rates of several responses, so there is no trade-off to draw.")
        return
    st.subheader("Trade-off", anchor=False)
    show.part(lambda: _fronts(run, curves, main, [name for name in rates if name != main]))


def _fronts(run: RunFolder, curves: pl.DataFrame, main: str, others: list[str]) -> None:
    root = queries.runs_root()
    known = [found.name for found in queries.list_runs(root) if found.kind == "train" and found.name != run.name]
    beside = controls.choices("Other runs in the same picture", known, "beside", default=[], most=_MOST)
    frames = {clip(stream.removeprefix("train-"), 30): rows for (stream,), rows in curves.group_by("stream", maintain_order=True)}
    for name in beside:
        try:
            other = queries.open_run(root, name)
            frames |= {
                f"{clip(stream.removeprefix('train-'), 16)} of {clip(name, 30)}": queries.curves(other, stream).frame
                for stream in queries.streams(other)
            }
        except RecrlError as error:
            show.problem(error)
    drawn: list[show.Asked] = []
    chosen = controls.choices("Against", others, "against", default=others[:_MOST], shown=words) if len(others) > _MOST else others
    for name in chosen:
        bound = next((found for rows in frames.values() if (found := learned.bound_of(rows, name)) is not None), None)
        least = any(_at_most(rows, name) for rows in frames.values())
        ways = pl.concat([learned.way(rows, who, main, name) for who, rows in frames.items()])
        drawn.append((f"front-{name}", figures.trade_off, ways, learned.ends(ways, least), main, name, bound))
    show.side_by_side(drawn)
    st.caption(
        "Rates are estimated by clipped ratios of training batches: they correct for this action's choice, not for what followed. "
        "An A/B test of the saved policies decides."
    )


def _at_most(frame: pl.DataFrame, response: str) -> bool:
    """Whether the response is bounded from above: its rate falls where its slack rises."""
    both = [frame.filter(pl.col("name") == f"{kind}_{response}")["value"] for kind in ("rate", "slack")]
    bound = learned.bound_of(frame, response)
    return (
        bound is not None
        and len(both[0]) == len(both[1])
        and bool(((bound - both[0] - both[1]).abs() < (both[0] - bound - both[1]).abs()).all())
    )


def _holding(mine: pl.DataFrame, names: list[str]) -> str:
    """Which constraints hold at the end."""
    parts = []
    for name in learned.of_kind(names, "slack_"):
        rows = mine.filter(pl.col("name") == f"slack_{name}").sort("step")
        last = float(rows.filter(pl.col("step") >= 0.9 * pl.col("step").max())["value"].mean())  # type: ignore[arg-type]
        parts.append(
            f"{'✓' if last >= 0 else '✕'} {words(name)} {'holds' if last >= 0 else 'misses'} its bound by {number(abs(last))} a request"
        )
    said = "; ".join(parts) or "No response has a bound here: auxiliaries pull by their weights alone"
    return f"{said} (mean of the last tenth of training)." if parts else f"{said}."


def drift(curves: pl.DataFrame) -> None:
    """Evaluations and how they fluctuate, the abstraction phi, and what the guard did."""
    learner = _learner(curves, ("abstraction_", "guard_"))
    mine = curves.filter(pl.col("stream") == learner)
    names = mine["name"].unique(maintain_order=True).to_list()
    returns = [name for name in names if name.startswith("eval_")]
    drawn: list[show.Asked] = [
        (
            name,
            figures.lines,
            mine,
            [name],
            words(name.removeprefix("eval_")),
            "each evaluation: fresh users from day 0 on",
            units.axis(name),
        )
        for name in sorted(returns, key=lambda name: name != "eval_return")
    ]
    if returns:
        st.markdown(plain(_fluctuation(mine, "eval_return" if "eval_return" in returns else returns[0]), 500))
        st.caption(
            "Every evaluation lets fresh users live through the same drift from its first day, so a fall here is learning that went "
            "astray, not a switch. How soon methods recover from switches: `recrl reproduce auro`, whose run shows it in this place."
        )
    else:
        st.caption("No evaluations: `recrl online auro --evaluate-every 1000` makes some.")
    spread = ["abstraction_spread", "abstraction_between"]
    if all(name in names for name in spread):
        subtitle = "between near all of it: phi tells values apart; both near 0: it has collapsed"
        drawn.append(
            ("phi", figures.lines, mine, spread, "The abstraction phi", subtitle, "variance of phi (no unit)", len("abstraction_"))
        )
    if "abstraction_loss" in names:
        drawn.append(
            (
                "phi-loss",
                figures.lines,
                mine,
                ["abstraction_loss"],
                "Loss of phi",
                "mean over each bin of updates",
                "abstraction loss (no unit)",
            )
        )
    if shares := [name for name in ("guard_kept", "guard_far") if name in names]:
        subtitle = "kept: the actor's own action; far: the farthest candidate"
        drawn.append(
            ("guard", figures.lines, mine, shares, "What the guard let through", subtitle, "share of transitions (0 to 1)", len("guard_"))
        )
    if "guard_gain" in names:
        drawn.append(
            (
                "gain",
                figures.lines,
                mine,
                ["guard_gain"],
                "What exploring promised",
                "rise of the mean value",
                "gain (units of reward)",
                6,
                True,
            )
        )
    show.side_by_side(drawn)


def _fluctuation(mine: pl.DataFrame, name: str) -> str:
    rows = mine.filter(pl.col("name") == name).sort("step")
    fall = learned.deepest_fall(rows["step"].to_list(), rows["value"].to_list())
    if fall is None:
        return f"{words(name)} never fell from one evaluation to a later one."
    top, low = f"{number(fall.peak)} at update {count(fall.peak_step)}", f"{number(fall.bottom)} at {count(fall.step)}"
    down = f"Deepest fall of {words(name)} between evaluations: from {top} to {low}"
    if fall.recovered_step is None:
        return f"{down}; not made good yet."
    return f"{down}; nine tenths made good {count(fall.recovered_step - fall.step)} updates later."


def preferences(run: RunFolder) -> None:
    """What a reward learned from preferences knows."""
    accuracy = show.table(run, "reward_accuracy")
    if accuracy is None:
        return
    of = {"train": "pairs it learned from"}.get(accuracy["of"][0], f"{clip(accuracy['of'][0], 30)} pairs")
    st.markdown(plain(_knows(accuracy), 500))
    if accuracy["of"][0] == "train":
        st.caption("△ Too few pairs were held out, so these are the ones it learned from: of new pairs it is right less often.")
    rows = [
        Interval(f"{clip(row['kind'], 20)} ({count(row['pairs'])})", row["right"], *learned.wilson(row["right"], row["pairs"]))
        for row in accuracy.iter_rows(named=True)
    ]
    drawn: list[show.Asked] = [("accuracy", figures.accuracy, rows, of)]
    calibration = show.table(run, "reward_calibration", quiet=True)
    if calibration is not None:
        ends = [learned.wilson(*row) for row in calibration.select("preferred", "pairs").rows()]
        columns = {end: pl.Series([pair[k] for pair in ends], dtype=pl.Float64) for k, end in enumerate(("lower", "upper"))}
        drawn.append(("calibration", figures.calibration, calibration.with_columns(**columns)))
    show.side_by_side(drawn)
    st.caption("Number of pairs in brackets. Within a user: the two timelines are one user's, so who it is cannot decide.")
    summary = show.table(run, "reward_summary", quiet=True)
    if summary is not None:
        st.markdown(plain(_about_actions(float(summary["action_share"][0])), 400))
    show.download(accuracy, "reward_accuracy", "accuracy")
    st.subheader("Single pairs", anchor=False)
    show.part(lambda: pairs.body(run))


def _knows(accuracy: pl.DataFrame) -> str:
    found = {row["kind"]: row for row in accuracy.iter_rows(named=True)}
    if "all" not in found:
        return "The table does not say how many pairs are judged rightly in all."
    low, high = learned.wilson(found["all"]["right"], found["all"]["pairs"])
    whole = found["all"]
    sure = f"95 % interval {share(low, 0)} to {share(high, 0)}"
    text = f"The reward is right about {share(whole['right'], 0)} of {count(whole['pairs'])} pairs ({sure})"
    return f"{text}: {'no better than guessing is shown' if not low > 0.5 else 'better than guessing'}."


def _about_actions(about: float) -> str:
    said = f"{share(about, 1)} of the reward's variance is about the action, given the state"
    if about < 0.005:
        return f"△ {said}: too little for a policy to learn from. Label more pairs of one user, or other timelines."
    return f"✓ {said}."


def reproduction(run: RunFolder) -> None:
    """A paper's comparison: each method over seeds, and the tables of the study."""
    cells = show.table(run, "reproduction_cells")
    if cells is None:
        return
    with st.container(horizontal=True):
        part = controls.choice("Part of the study", cells["part"].unique(maintain_order=True).to_list(), "part")
        mine = cells.filter(pl.col("part") == part)
        quantity = controls.choice("Quantity", _told_of_most(mine), "quantity", shown=words)
        ablations = st.toggle("With ablations and controls", value=True, key="ablations", bind="query-params")
    rows = mine.filter((pl.col("quantity") == quantity) & (pl.col("primary") | ablations))
    found = learned.over_seeds(rows)
    if found.is_empty() or part is None or quantity is None:
        st.caption("No finite number of it so far; the same command goes on.")
        return
    shown = [Interval(row["method"], row["mean"], row["lower"], row["upper"]) for row in found.head(40).iter_rows(named=True)]
    show.figure("reproduction", figures.reproduction, shown, rows.select("method", "seed", "value"), quantity, clip(part, 40))
    show.rows(
        [
            {
                "method": clip(row["method"]),
                f"mean {words(quantity)}": number(row["mean"]),
                "95 % interval": f"{number(row['lower'])} to {number(row['upper'])}" if row["seeds"] > 1 else "one seed: none",
                "seeds": row["seeds"],
            }
            for row in found.iter_rows(named=True)
        ],
    )
    show.download(cells, "reproduction_cells", "cells")
    for name, table in queries.other_tables(run, "reproduction_").items():
        with st.expander(plain(words(name.removeprefix("reproduction_")), 60)):
            show.rows(
                [{words(key): _shown(value) for key, value in row.items()} for row in table.head(200).iter_rows(named=True)],
            )


def _told_of_most(cells: pl.DataFrame) -> list[str]:
    """Quantities, those that most methods have first and time last: it is never what was asked."""
    found = cells.group_by("quantity", maintain_order=True).agg(pl.col("method").n_unique())
    return [str(name) for name, _ in sorted(found.iter_rows(), key=lambda row: (row[0] == "core_seconds", -row[1]))]


def _shown(value: object) -> str:
    return (
        number(value)
        if isinstance(value, float)
        else count(value)
        if isinstance(value, int) and not isinstance(value, bool)
        else clip(value, 200)
    )


def _learner(curves: pl.DataFrame, prefixes: str | tuple[str, ...]) -> str:
    """The learner that is looked at, among those with such metrics."""
    wanted = (prefixes,) if isinstance(prefixes, str) else prefixes
    has = pl.any_horizontal(*(pl.col("name").str.starts_with(prefix) for prefix in wanted))
    names = curves.filter(has)["stream"].unique(maintain_order=True).to_list()
    if len(names) == 1:
        return str(names[0])
    return str(controls.choice("Learner", names, "learner", shown=lambda name: clip(name.removeprefix("train-"), 40)))
