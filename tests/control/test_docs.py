from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nconnect.control.schema import LinkStatus, PeerStatus, PingReply, SkippedRoute, Status

DOCUMENT = (Path(__file__).parents[2] / "docs" / "control-api.md").read_text()


@pytest.mark.parametrize("value", [Status, LinkStatus, PeerStatus, SkippedRoute, PingReply])
def test_every_field_is_documented(value: type) -> None:
    for field in dataclasses.fields(value):
        assert f"`{field.name}`" in DOCUMENT or f'"{field.name}"' in DOCUMENT, field.name
