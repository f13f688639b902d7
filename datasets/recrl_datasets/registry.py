"""The datasets that can be prepared by name."""

from __future__ import annotations

from collections.abc import Mapping

from recrl.core.errors import ConfigError
from recrl_datasets.kuairand import KUAIRAND_PURE
from recrl_datasets.movielens import ML_100K
from recrl_datasets.schema import nearest
from recrl_datasets.tables import DatasetSource

REGISTRY: Mapping[str, DatasetSource] = {source.name: source for source in (ML_100K, KUAIRAND_PURE)}
"""Every registered dataset by name."""


def find_source(name: str) -> DatasetSource:
    """The registered dataset ``name``.

    **Errors**: :class:`ConfigError` with the nearest name.
    """
    if name not in REGISTRY:
        raise ConfigError(
            f"there is no dataset {name!r}", where="dataset", mend=f"{nearest(name, REGISTRY)}there are: {', '.join(REGISTRY)}"
        )
    return REGISTRY[name]
