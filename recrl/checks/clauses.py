"""How a suite states its clauses."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from recrl.core.errors import ContractError


class Clauses:
    """Collects the subject's name once, so that a clause is one line."""

    def __init__(self, contract: str, subject: object) -> None:
        self.where = f"{contract} contract of {type(subject).__name__}"

    def require(self, holds: Any, clause: str) -> None:
        """Raise :class:`ContractError` unless ``holds``."""
        if not bool(holds):
            raise ContractError(f"broken clause: {clause}", where=self.where, mend="see recrl.core.contracts for what is promised")


def same(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Whether two nested structures of arrays are equal, NaN equal to NaN, up to ``tolerance``."""
    if isinstance(a, torch.Tensor | np.ndarray):
        x, y = (v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else v for v in (a, b))
        return bool(x.shape == y.shape and np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=x.dtype.kind == "f"))
    if isinstance(a, dict):
        return bool(a.keys() == b.keys() and all(same(a[k], b[k], tolerance) for k in a))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name), tolerance) for f in fields(a))
    return bool(a == b)


def copied(node: Any) -> Any:
    """A deep copy of a nested structure of arrays, for comparing before and after."""
    if isinstance(node, torch.Tensor):
        return node.clone()
    if isinstance(node, np.ndarray):
        return node.copy()
    if isinstance(node, dict):
        return {k: copied(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(copied(v) for v in node)
    if is_dataclass(node) and not isinstance(node, type):
        return type(node)(**{f.name: copied(getattr(node, f.name)) for f in fields(node)})
    return node
