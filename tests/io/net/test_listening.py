from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.io.net.listening import bind_tcp, bind_unix


def test_a_port_of_its_own() -> None:
    with bind_tcp("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(HostError, match=f"port {port}.*choose another") as caught:
            bind_tcp("127.0.0.1", port)
    assert "\n" not in str(caught.value)


def test_a_port_that_only_root_may_take_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(
        HostError, match=r"port 443: permission denied \(ports below 1024 need root"
    ) as caught:
        bind_tcp("127.0.0.1", 443)
    assert "\n" not in str(caught.value)


def test_all_ipv6_addresses_take_ipv4_too() -> None:
    with bind_tcp("::", 0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 70 + ".example"])
def test_an_address_that_is_not_ours_is_one_line(host: str) -> None:
    with pytest.raises(HostError, match="cannot listen on") as caught:
        bind_tcp(host, 0)
    assert "\n" not in str(caught.value)


def test_a_unix_socket_is_its_owners_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_unix(path).close()
    with bind_unix(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_in_its_place_survives(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(HostError, match="cannot listen on"):
        bind_unix(path)
    assert path.read_text() == "precious"


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no such file"):
        bind_unix(tmp_path / "missing" / "s")
