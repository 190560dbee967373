"""What the tests of igpo-data share: one verifier with running workers, and the folder of real data where it exists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from igpo_data import Math

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def math() -> Iterator[Math]:
    verifier = Math(workers=2)
    yield verifier
    verifier.close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data sets are not beside this checkout (../shared/data)")
    return SHARED
