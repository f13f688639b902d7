"""The datasets that can be prepared by name."""

from __future__ import annotations

from collections.abc import Mapping

from recrl.core.errors import ConfigError
from recrl_datasets.loaders.kuairand import KUAIRAND
from recrl_datasets.loaders.movielens import MOVIELENS
from recrl_datasets.loaders.open_bandit import OPEN_BANDIT
from recrl_datasets.schema import nearest
from recrl_datasets.tables import DatasetSource

REGISTRY: Mapping[str, DatasetSource] = {source.name: source for source in (*MOVIELENS, *KUAIRAND, *OPEN_BANDIT)}
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
