"""Listeners over real TCP: who is served, how requests are answered, what is bounded."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import struct
from ipaddress import ip_address

import pytest

from nconnect.errors import ConfigError, HostError
from nconnect.streams import listener, proxy
from nconnect.streams.dialler import RefusalCode, Stream, StreamRefused
from nconnect.streams.forward import Forward, forwarding, parse_place
from nconnect.streams.joining import reset
from nconnect.streams.listener import ListenPlace, Owners, bind_listener
from nconnect.streams.proxy import proxying
from nconnect.streams.socks5 import encode_datagram
from nconnect.streams.target import DialTarget
from tests.loops import run, run_on_both, until
from tests.ports import free_port
from tests.streams.world import ANYBODY, NAME, REASON, LoopDialler, listening, server

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
SOCKS = (ANYBODY, proxying(None))
NOBODY = Owners(frozenset())
OWNER = Owners(frozenset({os.geteuid()}))


async def said(port: int, *parts: bytes, eof: bool = True) -> bytes:
    """All that a listener says to these bytes; b"" also for a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if eof:
            writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def curl(*arguments: str, within_s: float = 20.0) -> tuple[int, str, str]:
    """curl's status, output and error."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--noproxy", "", "-m", f"{within_s:g}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def connect(host: str, port: int) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


def socks_connect(host: str, port: int) -> bytes:
    return b"\5\1\0\5\1\0\3" + bytes([len(host)]) + host.encode() + struct.pack(">H", port)


def test_streams_carry_both_directions_and_their_ends() -> None:
    async def test() -> None:
        data = os.urandom(300_000)
        digest = hashlib.sha256(data).hexdigest().encode()
        dialler = LoopDialler()
        async with server() as port:
            forward = (ANYBODY, forwarding(DialTarget(NAME, port)))
            async with listening(dialler, SOCKS, forward) as (socks, forwarded):
                assert await said(forwarded, data) == digest
                answer = await said(socks, socks_connect(NAME, port), data)
                assert answer == b"\5\0\5\0\0\1" + bytes(6) + digest
                # The data comes with the request, before anybody has said that it succeeded.
                answer = await said(socks, connect("10.9.9.9", port) + data)
                assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n" + digest
        assert dialler.asked == [(NAME, port), (NAME, port), ("10.9.9.9", port)]

    run_on_both(test)


def test_refusals_are_told_to_the_program(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        closed = free_port()
        async with listening(
            LoopDialler(), SOCKS, (ANYBODY, forwarding(DialTarget("10.1.1.1", 80)))
        ) as ports:
            socks, forwarded = ports
            assert (await said(socks, socks_connect("10.1.1.1", 80)))[2:4] == b"\5\2"
            assert (await said(socks, socks_connect(NAME, closed)))[2:4] == b"\5\5"
            answer = await said(socks, connect("10.1.1.1", 80))
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert answer.endswith(f"\r\n\r\n{REASON}\n".encode())
            assert (await said(socks, b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(
                b"HTTP/1.1 405 "
            )
            assert await said(forwarded, b"x") == b""

    run(test)
    ours = [record for record in caplog.records if record.name.startswith("nconnect.")]
    lines = [record.getMessage() for record in ours]
    assert lines.count(f"10.1.1.1:80: {REASON}") == 3
    assert all("\n" not in line for line in lines)


def test_other_names_are_resolved_by_nobody() -> None:
    async def test() -> None:
        dialler = LoopDialler()
        async with listening(dialler, SOCKS) as (port,):
            for name in ("example.com", "localhost", "internal", "gpu.internal.example.com"):
                assert (await said(port, socks_connect(name, 80)))[2:4] == b"\5\2"
                answer = await said(port, connect(name, 80))
                assert answer.startswith(b"HTTP/1.1 403 ")
                assert b".internal" in answer
        assert dialler.asked == []

    run(test)


def test_a_broken_stream_is_no_short_success() -> None:
    async def test() -> None:
        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"some of it")
            await writer.drain()
            await reader.readexactly(1)
            reset(writer)

        served = await asyncio.start_server(cut, "127.0.0.1", 0)
        port = served.sockets[0].getsockname()[1]
        async with served, listening(LoopDialler(), (ANYBODY, forwarding(DialTarget(NAME, port)))) as (ours,):
            reader, writer = await asyncio.open_connection("127.0.0.1", ours)
            assert await reader.readexactly(10) == b"some of it"
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run_on_both(test)


def test_a_listener_on_loopback_serves_its_owner_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with server() as port:
            target = forwarding(DialTarget(NAME, port))
            async with listening(LoopDialler(), (OWNER, target), (NOBODY, target)) as (mine, other):
                assert await said(mine, b"hello") == hashlib.sha256(b"hello").hexdigest().encode()
                assert await said(other, b"hello") == b""

    run(test)
    assert f"uid {os.geteuid()} (--any-user serves all)" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_refused() -> None:
    async def test() -> None:
        async with (
            server() as port,
            listening(LoopDialler(), (OWNER, forwarding(DialTarget(NAME, port)))) as (ours,),
        ):
            process = await asyncio.create_subprocess_exec(
                *("setpriv", "--reuid", "12345", "--clear-groups", "bash", "-c"),
                f"exec 3<>/dev/tcp/127.0.0.1/{ours} && echo connected && cat <&3",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert out == b"connected\n", err
            assert b"reset" in err

    run(test)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_whose_a_socket_is(host: str) -> None:
    from nconnect.io.system.socket_owner import uid_of_tcp, uid_of_udp

    family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    with (
        bind_listener(ListenPlace(host, 0)) as listening_socket,
        socket.socket(family) as client,
        socket.socket(family, socket.SOCK_DGRAM) as here,
        socket.socket(family, socket.SOCK_DGRAM) as there,
    ):
        os.fchown(client.fileno(), 4711, -1)  # a socket's uid is its inode's
        os.fchown(there.fileno(), 4712, -1)
        client.connect(listening_socket.getsockname())
        assert uid_of_tcp(listening_socket.getsockname(), client.getsockname()) == 4711
        here.bind((host, 0))
        there.sendto(b"x", here.getsockname())
        assert uid_of_udp(here.getsockname(), here.recvfrom(1)[1]) == 4712
        with pytest.raises(OSError, match="No such file"):
            uid_of_tcp(listening_socket.getsockname(), (host, 1))
        # Closed with data on its way it is nobody's, and must not count as root's.
        other = client.getsockname()
        client.send(b"x")
        client.close()
        with pytest.raises(OSError, match="closed already"):
            uid_of_tcp(listening_socket.getsockname(), other)


def test_sudo_s_caller_is_an_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    for uid, caller, expected in ((0, "1000", {0, 1000}), (0, "x", {0}), (0, None, {0}), (7, "1000", {7})):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        monkeypatch.delenv("SUDO_UID", raising=False)
        if caller is not None:
            monkeypatch.setenv("SUDO_UID", caller)
        assert Owners.of_process().uids == expected


def test_half_open_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "HANDSHAKE_S", 0.2)

    async def test() -> None:
        async with listening(LoopDialler(), SOCKS) as (port,):
            assert await said(port, b"\5", eof=False) == b""
            assert await said(port, b"CONNECT ", eof=False) == b""

    run(test)


def test_half_open_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_HALF_OPEN", 3)

    async def test() -> None:
        async with server() as to, listening(LoopDialler(), SOCKS) as (port,):
            idle = [asyncio.create_task(said(port, b"\5\1\0", eof=False)) for _ in range(6)]
            await until(lambda: sum(task.done() for task in idle) == 3)
            assert (await said(port, socks_connect(NAME, to), b"x"))[2:4] == b"\5\0"
            for task in idle:
                task.cancel()
            await asyncio.gather(*idle, return_exceptions=True)

    run(test)


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 2)

    async def test() -> None:
        async with (
            server() as to,
            listening(LoopDialler(), (ANYBODY, forwarding(DialTarget(NAME, to)))) as (port,),
        ):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for reader, writer in held:
                writer.write(b"echo!")
                assert await reader.readexactly(1) == b"!"
            assert await said(port, b"x") == b""
            held[0][1].close()
            for _ in range(1000):  # until its end has been noticed
                if await said(port, b"x"):
                    break
            else:
                raise AssertionError("the end of a connection makes no room")
            held[1][1].close()

    run(test)


def test_a_burst_is_opened_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_OPENING", 3)

    class Counting(LoopDialler):
        opening = most = 0

        async def open(self, host: str, port: int) -> Stream:
            self.opening += 1
            self.most = max(self.most, self.opening)
            try:
                await asyncio.sleep(0)
                return await super().open(host, port)
            finally:
                self.opening -= 1

    async def test() -> None:
        dialler = Counting()
        async with server() as to, listening(dialler, (ANYBODY, forwarding(DialTarget(NAME, to)))) as (port,):
            answers = await asyncio.gather(*(said(port, b"x") for _ in range(20)))
            assert answers == [hashlib.sha256(b"x").hexdigest().encode()] * 20
        assert dialler.most == 3

    run(test)


def test_a_password_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "WRONG_PASSWORD_S", 0.01)
    login = b"\5\1\2\1\1u\4open"
    request = b"\5\1\0\1\x0a\x09\x09\x09"

    async def test() -> None:
        async with server() as to, listening(LoopDialler(), (ANYBODY, proxying(b"open"))) as (port,):
            where = struct.pack(">H", to)
            assert (await said(port, login, request, where, b"x")).startswith(b"\5\2\1\0\5\0")
            assert await said(port, login[:-1] + b"x", request, where) == b"\5\2\1\1"
            assert await said(port, b"\5\1\0", request, where) == b"\5\xff"
            assert (await said(port, connect("10.9.9.9", to))).startswith(b"HTTP/1.1 407 ")

    run(test)


def test_a_dialler_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "GIVE_UP_S", 0.1)

    async def test() -> None:
        async with listening(LoopDialler(never=True), SOCKS) as (port,):
            assert (await said(port, socks_connect(NAME, 80)))[2:4] == b"\5\6"
            assert (await said(port, connect(NAME, 80))).startswith(b"HTTP/1.1 504 ")

    run(test)


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.transport.sendto(data[::-1], addr)  # type: ignore[attr-defined]


def test_udp_goes_both_ways_for_one_socket_alone() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        echo, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        dialler = LoopDialler(udp_port=echo.get_extra_info("sockname")[1])
        async with listening(dialler, (OWNER, proxying(None))) as (port,):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\5\1\0\5\3\0\1" + bytes(6))
            answer = await reader.readexactly(2 + 10)
            assert answer[2:4] == b"\5\0"
            relay = "127.0.0.1", int.from_bytes(answer[10:12], "big")
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another,
            ):
                for sock in (program, another):
                    sock.setblocking(False)
                for host in ("10.9.9.9", "dns.gpu-box.internal"):
                    await loop.sock_sendto(program, encode_datagram("example.com", 53, b"no"), relay)
                    await loop.sock_sendto(program, b"no datagram", relay)
                    await loop.sock_sendto(program, encode_datagram(host, 53, b"abc"), relay)
                    assert await loop.sock_recv(program, 100) == encode_datagram(host, 53, b"cba")
                await loop.sock_sendto(another, encode_datagram("10.9.9.9", 53, b"abc"), relay)
                await loop.sock_sendto(program, encode_datagram("10.9.9.9", 54, b"abc"), relay)
                assert await loop.sock_recv(program, 100) == encode_datagram("10.9.9.9", 54, b"cba")
                with pytest.raises(BlockingIOError):
                    another.recv(1)
            writer.close()
            await writer.wait_closed()
        echo.close()

    run(test)


def test_udp_of_another_user_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    from nconnect.streams.udp import _Relay

    async def test() -> None:
        loop = asyncio.get_running_loop()
        sent: list[object] = []

        class Channel:
            def send(self, host: str, port: int, data: object) -> None:
                sent.append((host, port))

            async def recv(self) -> tuple[str, int, bytes]:
                raise AssertionError

            def close(self) -> None:
                pass

        relay = _Relay(Channel(), NOBODY, "127.0.0.1")
        transport, _ = await loop.create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            program.bind(("127.0.0.1", 0))
            relay.datagram_received(encode_datagram("10.9.9.9", 53, b"x"), program.getsockname())
            relay.datagram_received(encode_datagram("10.9.9.9", 53, b"x"), ("192.0.2.1", 5))
        transport.close()
        assert sent == []

    run(test)
    assert "datagrams were refused" in caplog.text


def test_a_way_without_udp_refuses_it() -> None:
    async def test() -> None:
        async with listening(LoopDialler(), SOCKS) as (port,):
            assert (await said(port, b"\5\1\0\5\3\0\1" + bytes(6)))[2:4] == b"\5\1"

    run(test)


@needs_curl
def test_curl_uses_every_way_in() -> None:
    async def test() -> None:
        async with server() as to, listening(LoopDialler(), SOCKS) as (port,):
            url, proxy_at = f"http://{NAME}:{to}/100000", f"127.0.0.1:{port}"
            for way in (
                ("--socks5-hostname", proxy_at),
                ("--proxy", f"socks5h://{proxy_at}"),
                ("--proxytunnel", "-x", f"http://{proxy_at}"),
            ):
                assert await curl(*way, url) == (0, "x" * 100_000, "")
            numbers = ("--socks5", proxy_at, f"http://10.9.9.9:{to}/5")
            assert await curl(*numbers) == (0, "xxxxx", "")
            # Without --proxytunnel curl asks the proxy for the page itself.
            status, out, _ = await curl("-x", f"http://{proxy_at}", url)
            assert status == 0
            assert "--proxytunnel" in out
            status, _, err = await curl("--socks5-hostname", proxy_at, "http://10.1.1.1/")
            assert status == 97
            assert "(2)" in err  # the reply code: not allowed
            # As a browser does it: many at once.
            together = await asyncio.gather(*(curl("-x", f"socks5h://{proxy_at}", url) for _ in range(12)))
            assert together == [(0, "x" * 100_000, "")] * 12

    run(test, within_s=60.0)


@pytest.mark.parametrize(
    ("text", "place", "target"),
    [
        ("8000:192.168.50.10:80", "127.0.0.1:8000", "192.168.50.10:80"),
        ("[::1]:8000:[fd00::1]:80", "[::1]:8000", "[fd00::1]:80"),
        ("0.0.0.0:8000:web.gpu-box.internal:80", "0.0.0.0:8000", "web.gpu-box.internal:80"),
        ("*:8000:10.0.0.1:80", "0.0.0.0:8000", "10.0.0.1:80"),
        ("localhost:8000:10.0.0.1:80", "127.0.0.1:8000", "10.0.0.1:80"),
    ],
)
def test_forwards_are_written_as_for_ssh(text: str, place: str, target: str) -> None:
    forward = Forward.parse(text)
    assert (str(forward.place), str(forward.target)) == (place, target)
    assert forward.place.is_loopback is place.startswith(("127.", "[::1]"))


@pytest.mark.parametrize(
    "text",
    [
        "", "80", "80:10.0.0.1", "0:10.0.0.1:80", "80:10.0.0.1:0", "80:10.0.0.1:65536", "x:80:10.0.0.1:80",
        "80:a b:80", "80:example.com:80", "80:localhost:80", "80:[fd00::1:80", "80:fd00::1:80",
        "[::1]80:10.0.0.1:80", "1:2:3:4:5", "٣:10.0.0.1:80",
    ],
)  # fmt: skip
def test_what_is_no_forward(text: str) -> None:
    with pytest.raises(ConfigError):
        Forward.parse(text)


def test_places() -> None:
    assert parse_place("1080") == ListenPlace("127.0.0.1", 1080)
    assert parse_place("[::1]:1080") == ListenPlace("::1", 1080)
    for wrong in ("", "x", "1.2.3.4", "host:1080", "1:2:3", ":1080"):
        with pytest.raises(ConfigError):
            parse_place(wrong)


def test_a_port_in_use_is_one_line() -> None:
    with bind_listener(ListenPlace("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(HostError, match=f"cannot listen at 127.0.0.1:{port}: .*another program"):
            bind_listener(ListenPlace("127.0.0.1", port))
    with pytest.raises(HostError, match="no such address"):
        bind_listener(ListenPlace("192.0.2.1", 0))


def test_refusal_has_its_reason() -> None:
    refused = StreamRefused("paused: back at 22:00", RefusalCode.NOT_ALLOWED)
    assert str(refused) == refused.reason == "paused: back at 22:00"
