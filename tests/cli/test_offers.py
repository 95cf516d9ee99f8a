from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Run
from tests.control.fake import OFFERS, FakeBackend


def test_offers_as_a_table(run: Run, daemon: FakeBackend) -> None:
    assert run("offers").out.splitlines() == [
        "PROVIDER  SERVER  URL                                   MODELS              YOU MAY",
        "gpu-box   ollama  http://ollama.gpu-box.internal:11434  a, b, c and 1 more  yes",
        "attic     vllm    http://10.9.1.7:8000                                      not now",
    ]
    assert daemon.asked == ["offers"]


def test_offers_as_json(run: Run, daemon: FakeBackend) -> None:
    assert json.loads(run("offers", "--json").out) == {
        "offers": [
            {
                "provider": each.provider,
                "server": each.server,
                "url": each.url,
                "names": list(each.names),
                "models": list(each.models),
                "allowed": each.allowed,
            }
            for each in OFFERS
        ]
    }


def test_nothing_is_offered(run: Run, daemon: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "offers", list)
    assert run("offers").out.startswith("no offers: no provider offers a server")


def test_no_daemon_is_one_line(run: Run, config_path: object) -> None:
    result = run("offers")
    assert (result.status, result.err) == (1, "nconnect: error: nc0 is not up: start it with `nconnect up`\n")
