"""Supervised rankers: trained by RecBole or LightGBM, used as policies over items, candidate generators and sources of item vectors.

Nothing here imports RecBole or LightGBM before a ranker is trained.
"""

from __future__ import annotations

RECBOLE_MODELS: dict[str, str] = {"bpr": "BPR", "lightgcn": "LightGCN", "sasrec": "SASRec", "gru4rec": "GRU4Rec"}
"""Rankers that RecBole trains: our name and RecBole's."""

SEQUENTIAL: frozenset[str] = frozenset({"sasrec", "gru4rec"})
"""Rankers that score by the history of items, not by the user."""

RANKERS: tuple[str, ...] = (*RECBOLE_MODELS, "lightgbm")
"""Names of all supervised rankers."""
