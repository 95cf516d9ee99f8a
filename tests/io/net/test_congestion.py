from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nconnect.io.net import congestion, tcp_info
from nconnect.io.net.congestion import CongestionControl


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """A TCP connection on loopback, under BBR."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
        server.accept()[0] as theirs,
    ):
        try:
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pytest.skip("this kernel has no BBR")
        ours.sendall(b"?")
        assert theirs.recv(1) == b"?"
        yield ours


def used(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def test_on_a_short_path_tcp_does_not_pace_until_packets_get_lost(sock: socket.socket) -> None:
    control, info = CongestionControl(), replace(tcp_info.read(sock), min_rtt_s=0.0001, retransmitted=3)
    control.look(sock, info)
    assert used(sock) == congestion.RENO
    control.look(sock, replace(info, retransmitted=3 + congestion.LOSSES))
    assert used(sock) == congestion.RENO
    control.look(sock, replace(info, retransmitted=4 + congestion.LOSSES))
    assert used(sock) == b"bbr"
    control.look(sock, info)
    assert used(sock) == b"bbr", "once is enough"


def test_a_long_path_is_left_to_the_system(sock: socket.socket) -> None:
    CongestionControl().look(sock, replace(tcp_info.read(sock), min_rtt_s=0.002))
    assert used(sock) == b"bbr"


def test_what_is_not_bbr_is_left_alone(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    control, info = CongestionControl(), replace(tcp_info.read(sock), min_rtt_s=0.0001)
    control.look(sock, info)
    control.look(sock, replace(info, retransmitted=1000))
    assert used(sock) == b"cubic"


def test_a_socket_that_is_gone_is_no_error(sock: socket.socket) -> None:
    info = replace(tcp_info.read(sock), min_rtt_s=0.0001)
    sock.close()
    CongestionControl().look(sock, info)


def test_the_kernel_counts_from_nothing(sock: socket.socket) -> None:
    assert tcp_info.read(sock).retransmitted == 0
