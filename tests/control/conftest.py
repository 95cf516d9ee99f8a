from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.fake import FakeBackend, running


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBackend]:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path))
    with running(tmp_path / "nc0.sock") as backend:
        yield backend
