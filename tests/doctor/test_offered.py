from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from nconnect.doctor.checks import diagnose
from nconnect.doctor.findings import Finding, Level
from nconnect.doctor.offered import Listening
from nconnect.model import Exposed, ProvideConfig, Service
from tests.doctor.examples import CONFIG, spoilt

LOOPBACK, ALL = ip_address("127.0.0.1"), ip_address("0.0.0.0")
OFFERING = replace(
    CONFIG,
    provide=ProvideConfig(
        services=(Service((8000, 8000), "tcp"), Service((5000, 5010), "udp")),
        expose=(Exposed("127.0.0.1", 11434),),
    ),
)


def found(listening: Listening | None) -> list[Finding]:
    return [
        finding
        for finding in diagnose(spoilt(config=OFFERING, listening=listening))
        if finding.check in ("services", "expose")
    ]


def test_where_something_listens_on_everything_nothing_is_said() -> None:
    assert found({("tcp", 8000): (ALL,), ("udp", 5003): (ALL,), ("tcp", 11434): (LOOPBACK,)}) == []
    assert found({("tcp", 8000): (ALL,), ("udp", 5003): (ALL,), ("tcp", 11434): (ALL,)}) == []
    assert found(None) == [], "it is not known"


def test_where_nothing_listens_it_is_said() -> None:
    findings = found({("udp", 8000): (ALL,), ("tcp", 5003): (ALL,), ("tcp", 11434): (ip_address("::1"),)})
    assert [(f.level, f.text) for f in findings] == [
        (Level.WARNING, "nothing listens on port 8000/tcp, which is offered"),
        (Level.WARNING, "nothing listens on port 5000-5010/udp, which is offered"),
        (Level.WARNING, "nothing listens on 127.0.0.1:11434, which is offered"),
    ]


def test_a_service_that_listens_on_loopback_only_is_to_be_exposed() -> None:
    (finding,) = found({("tcp", 8000): (LOOPBACK,), ("udp", 5000): (ALL,), ("tcp", 11434): (LOOPBACK,)})
    assert finding.text == "port 8000/tcp is offered, and listens on loopback only"
    assert finding.mend.endswith("provide add --expose 127.0.0.1:8000")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("stale", "gpu-box has gone silent"),
        ("left", "gpu-box was stopped on its side"),
        ("handshaking", "gpu-box does not answer"),
        ("up", ""),
        ("never", ""),
    ],
)
def test_a_peer_that_is_silent(state: str, says: str) -> None:
    def of(config: object) -> list[tuple[Level, str]]:
        findings = diagnose(spoilt(config=config, peers=(("gpu-box", state),)))
        return [(f.level, f.text) for f in findings if f.check == "peers"]

    user = replace(CONFIG, provide=ProvideConfig())
    assert of(user) == ([(Level.WARNING, says)] if says else [])
    friend = says if state == "left" else f"{says}: it is off, or offline"
    assert of(OFFERING) == ([(Level.OK, friend)] if says else []), "a friend sleeps"
