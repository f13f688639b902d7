"""What the tests that kill processes share."""

from __future__ import annotations

import pytest

from recrl.core.runs import package_versions


@pytest.fixture(scope="module")
def quick_files():
    """A kill leaves what the kernel was given, synced or not; and the versions of packages are looked up once."""
    versions = package_versions()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        patch.setattr("recrl.core.runs.package_versions", lambda: versions)
        yield
