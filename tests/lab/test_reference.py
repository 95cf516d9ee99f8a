"""The pages that are written from the product are current, and say what the product does."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lab.reference import cli, metrics, openapi
from lab.reference.__main__ import PAGES
from nconnect.control.exposition import PeerHistograms, exposition
from nconnect.control.schema import Status
from nconnect.control.server import ControlServer
from nconnect.errors import DropReason
from tests.control.fake import FakeBackend


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_current(path: Any) -> None:
    assert path.read_text() == PAGES[path](), f"{path.name} is not current: run scripts/reference"


def test_the_document_has_the_servers_routes_and_no_others() -> None:
    routes = ControlServer(FakeBackend(Path("never.sock")), uid=0)._routes
    told = {(method.upper(), path) for path, methods in openapi.paths().items() for method in methods}
    assert told == set(routes)


def test_every_field_of_a_status_is_in_the_document() -> None:
    document = json.loads(openapi.document())
    told = document["components"]["schemas"]["Status"]
    assert set(told["properties"]) == {field.name for field in dataclasses.fields(Status)}
    assert set(told["required"]) == set(told["properties"])


def test_every_reference_leads_somewhere() -> None:
    text = openapi.document()
    schemas = json.loads(text)["components"]["schemas"]
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas


def test_every_metric_has_its_row_and_every_drop_its_reason() -> None:
    text = metrics.page()
    status = metrics.example()
    exposed = exposition(status, {"peer": PeerHistograms()}, metrics.STUN)
    names = re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE)
    assert len(names) > 25
    for name in names:
        assert text.count(f"| `{name}` |") == 1, name
    assert set(metrics.REASONS) == set(DropReason)
    assert "| `nconnect_peer_round_trip_seconds` | histogram | seconds | Round trips" in text
    assert "| `nconnect_peer_drops_total` | counter |  | Dropped packets and messages. By `reason`. |" in text
    assert "| `nconnect_link_receive_bytes_total` | counter | bytes |" in text


def test_a_type_without_a_schema_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes"):
        openapi._type(bytes)


def test_a_subcommand_has_its_help() -> None:
    assert "--allowed-ips" in cli.help_of(("peer", "add"))
    with pytest.raises(SystemExit):
        cli.help_of(("frobnicate",))
