"""No test of the daemon's parts may see one of them block the event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.blocking import WATCH


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    WATCH.begin()
    yield
    assert WATCH.end() == []
