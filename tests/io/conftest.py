"""A resolv.conf for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from nconnect.io.net import name_servers


@pytest.fixture
def resolv_conf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that stands for resolv.conf: none yet."""
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(name_servers, "RESOLV_CONF", path)
    return path
