"""What an estimated value is of: a shown item, a whole session, or users who came back; each stands beside the log's own of its kind."""

from __future__ import annotations

import re
from enum import Enum

import polars as pl

from dashboards.formats import is_share, words

OF_SESSIONS = frozenset(
    {"mean_return", "tis", "wis", "capped_wis", "pdis", "wpdis", "seq_dm", "seq_dr", "seq_wdr", "iips", "pseudo_inverse"}
)
"""Estimators whose value is a sum over a session, that of the log itself (``mean_return``) among them."""

_BACK = re.compile(r"return_within_(\d+)_days")


class Kind(Enum):
    """What one value is of."""

    ITEM = "a shown item"
    SESSION = "a session"
    RETURN = "users who came back"

    @property
    def counted(self) -> str:
        """What an effective sample size counts."""
        return "rows" if self is Kind.ITEM else "sessions"


def apart(rows: pl.DataFrame) -> dict[Kind, pl.DataFrame]:
    """Rows of ``estimates`` of one signal by what they are of, with the log's own; kinds that no policy was estimated in are left out.

    A value per session and one per item are different quantities: they share no axis, no rank and no logged mean.
    """
    if rows.is_empty():
        return {}
    if _BACK.fullmatch(rows["signal"][0]):
        found = {Kind.RETURN: rows}
    else:
        of_session = pl.col("estimator").is_in(OF_SESSIONS)
        found = {Kind.ITEM: rows.filter(~of_session), Kind.SESSION: rows.filter(of_session)}
    return {kind: part for kind, part in found.items() if (part["policy"] != "logged").any()}


def kind_of(signal: str, estimator: str) -> Kind:
    """What the estimator's value is of."""
    return Kind.RETURN if _BACK.fullmatch(signal) else Kind.SESSION if estimator in OF_SESSIONS else Kind.ITEM


def kind_in(rows: pl.DataFrame, signal: str) -> Kind:
    """What rows of one kind are of: their first policy's."""
    estimators = rows.filter(pl.col("policy") != "logged")["estimator"]
    return kind_of(signal, estimators[0] if len(estimators) else "")


def name(signal: str, kind: Kind) -> str:
    """The quantity in words: ``long view``, ``long view over a session``, ``users back within 7 days``."""
    if kind is Kind.ITEM:
        return words(signal)
    if kind is Kind.SESSION:
        return f"{words(signal)} over a session"
    days = _BACK.sub(r"\1", signal)
    return f"users back within {days} day{'s' if days != '1' else ''}"


def unit(signal: str, kind: Kind) -> str:
    """The unit of a value, as :func:`dashboards.formats.quantity` takes it."""
    seconds = "seconds" if signal.endswith("_seconds") else ""
    if kind is Kind.SESSION:
        return f"{seconds} a session".strip()
    return "share" if kind is Kind.RETURN or is_share(signal) else seconds


def axis(signal: str, kind: Kind) -> str:
    """The title of a value's axis."""
    if kind is Kind.SESSION:
        return f"{words(signal)}, sum over a session"
    if kind is Kind.RETURN:
        return "share of users"
    return f"{words(signal)} (share of shown items)" if is_share(signal) else f"{words(signal)} per shown item"
