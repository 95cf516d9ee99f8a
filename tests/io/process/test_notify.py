"""sd_notify on a socket of our own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nconnect.io.process.notify import ServiceManager


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        yield made


def test_what_is_said(listening: socket.socket) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": listening.getsockname()})
    service.alive()
    service.ready("nc0 is up")
    service.ready("said once")
    service.stopping()
    said = [listening.recv(200) for _ in range(3)]
    assert said == [b"WATCHDOG=1", b"READY=1\nSTATUS=nc0 is up", b"STOPPING=1"]
    with pytest.raises(BlockingIOError):
        listening.recv(200)
    listening.close()
    service.alive()  # nobody listens any more, and nothing breaks
    service.close()
    service.alive()


def test_an_abstract_socket() -> None:
    name = f"nconnect-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        service = ServiceManager({"NOTIFY_SOCKET": f"@{name}"})
        service.ready("x")
        assert listening.recv(100) == b"READY=1\nSTATUS=x"
        service.close()


@pytest.mark.parametrize("path", ["", "relative", None])
def test_without_a_service_manager_nothing_happens(path: str | None) -> None:
    service = ServiceManager({} if path is None else {"NOTIFY_SOCKET": path})
    service.ready("nobody hears it")
    service.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # another's
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_patience(environment: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager(environment).watchdog_s == seconds
