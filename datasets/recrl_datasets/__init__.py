"""Logged recommender data: schema, loaders, sessions, splits, features and a columnar store."""

from recrl_datasets.appending import append
from recrl_datasets.atomic import from_atomic
from recrl_datasets.describe import Description, describe
from recrl_datasets.downloading.download import PUBLISHED, Downloaded, Published, download, find_published, present
from recrl_datasets.features import UserItemFeatures
from recrl_datasets.frame import Caller, from_frame
from recrl_datasets.loaders.registry import REGISTRY
from recrl_datasets.log import Log
from recrl_datasets.preparing import prepare
from recrl_datasets.schema import COLUMNS, RowsAsClustersWarning
from recrl_datasets.sessions import Sessions, sessions
from recrl_datasets.splits import Split, split_by_time, split_by_user
from recrl_datasets.store import Manifest, Store, open_store
from recrl_datasets.tables import DatasetSource, Finding, RawTables

__all__ = [
    "COLUMNS",
    "PUBLISHED",
    "REGISTRY",
    "Caller",
    "DatasetSource",
    "Description",
    "Downloaded",
    "Finding",
    "Log",
    "Manifest",
    "Published",
    "RawTables",
    "RowsAsClustersWarning",
    "Sessions",
    "Split",
    "Store",
    "UserItemFeatures",
    "append",
    "describe",
    "download",
    "find_published",
    "from_atomic",
    "from_frame",
    "open_store",
    "prepare",
    "present",
    "sessions",
    "split_by_time",
    "split_by_user",
]
