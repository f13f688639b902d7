"""Single labelled pairs: both timelines, the answer, and what the learned reward says of each."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboards import controls, labelling, show
from dashboards.formats import count, number, plain, share, words
from recrl.core.runs import RunFolder

_SURE = 0.5
_AGREE, _DISAGREE, _EQUAL = "✓ agree", "✕ disagree", "= called equal"
_SPLITS = {"train": "learned from", "valid": "stopped by", "test": "held out"}
_EVERY = "all"


def body(run: RunFolder) -> None:
    """Which pairs, one of them, and its two timelines."""
    if (frame := show.table(run, "reward_pairs", quiet=True)) is None:
        return
    frame = verdicts(frame)
    found = {row["verdict"]: row["len"] for row in frame.group_by("verdict").len().iter_rows(named=True)}
    decided = found.get(_AGREE, 0) + found.get(_DISAGREE, 0)
    st.markdown(plain(f"Reward and answers agree on {count(found.get(_AGREE, 0))} of {count(decided)} pairs with an answer for one side."))
    with st.container(horizontal=True):
        kinds = [kind for kind in (_DISAGREE, _AGREE, _EQUAL) if kind in found]
        kind = controls.choice("Reward and answer", [_EVERY, *kinds], "agreement")
        splits = [name for name in _SPLITS if name in frame["split"].to_list()]
        split = controls.choice("Pairs", [_EVERY, *splits], "split", shown=lambda name: _SPLITS.get(name, name))
        rows = frame.filter(((pl.col("verdict") == kind) | (kind == _EVERY)) & ((pl.col("split") == split) | (split == _EVERY)))
        # where the reward is surest it has most to explain
        rows = rows.sort((pl.col("predicted") - _SURE).abs(), descending=True, nulls_last=True)
        numbers = {
            str(row["pair"]): f"pair {row['pair']}: {share(row['predicted'], 0)}, {row['verdict']}" for row in rows.iter_rows(named=True)
        }
        chosen = controls.choice(
            "Pair",
            list(numbers),
            "pair",
            shown=lambda pair: numbers[pair],
            help="the surest first; %: the reward's chance that the left is better",
        )
    if chosen is None:
        st.caption("No such pair.")
        return
    _pair(rows.row(by_predicate=pl.col("pair") == int(chosen), named=True))


def verdicts(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with ``verdict``: whether reward and answer agree on the better side."""
    agree = (pl.col("predicted") > _SURE) == (pl.col("preferred") > _SURE)
    verdict = pl.when(pl.col("preferred") == _SURE).then(pl.lit(_EQUAL)).when(agree).then(pl.lit(_AGREE)).otherwise(pl.lit(_DISAGREE))
    return frame.with_columns(verdict=verdict)


def _pair(row: dict[str, object]) -> None:
    preferred, predicted = float(str(row["preferred"])), float(str(row["predicted"]))
    answer = "equal" if preferred == _SURE else f"{'left' if preferred > _SURE else 'right'} is better"
    says = f"{'left' if predicted > _SURE else 'right'} is better, with a chance of {share(max(predicted, 1 - predicted), 0)}"
    st.markdown(f"**{plain(str(row['verdict']))}**: {plain(f'answer: {answer}; reward: {says}.')}")
    for column, side, name in zip(st.columns(2, gap="large"), ("first", "second"), ("Left", "Right"), strict=True):
        with column:
            st.subheader(name, anchor=False)
            st.caption(plain(f"learned reward, summed over the timeline: {number(float(str(row[f'{side}_return'])))}"))
            timeline(str(row[f"{side}_user"]), labelling.sessions_of(str(row[f"{side}_timeline"])))


def timeline(user: str, sessions: tuple[labelling.Session, ...]) -> None:
    """One side of a pair, a row a session."""
    made = sum(session.requests for session in sessions)
    st.caption(plain(f"user {user}: {count(made)} requests in {count(len(sessions))} session{'s' if len(sessions) != 1 else ''}"))
    st.table(
        [
            # what a narrow page cuts off stands last
            {"requests": session.requests, "back after": session.came_back.removeprefix("back after "), "each request": session.bars}
            | {words(name): f"{value:.2f}" for name, value in session.means.items()}
            for session in sessions
        ],
        border="horizontal",
        hide_index=True,
    )
