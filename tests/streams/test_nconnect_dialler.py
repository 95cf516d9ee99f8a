"""Streams through an official nConnect server, which a client of ours plays here byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress

import pytest

from nconnect.crypto.keys import Identity
from nconnect.crypto.shadowsocks import ShadowCipher, ShadowOpener, ShadowSealer
from nconnect.errors import ConfigError, NetworkError, RemoteProtocolError, StreamError
from nconnect.nkn import MultiClient, Stream
from nconnect.streams import nconnect_dialler, official_stream
from nconnect.streams.dialler import StreamRefused
from nconnect.streams.nconnect_dialler import NconnectDialler
from nconnect.wire import official_nconnect as official
from nconnect.wire.official_nconnect import ServerInfo
from tests.loops import run
from tests.nkn.net import Net

SALT = bytes(range(32))
TARGET = bytes.fromhex("01c0a8370a1f40")  # 192.168.55.10:8000


class Server:
    """What an official server does: it refuses every target but `TARGET`, and echoes there."""

    def __init__(self, client: MultiClient, cipher: ShadowCipher, password: str) -> None:
        self.client = client
        self.cipher = cipher
        self.key = cipher.key(password)
        self.info = official.info_answer(ServerInfo(client._address))
        self.asked: list[str | bytes] = []
        self.targets: list[bytes] = []

    async def answer(self) -> None:
        async for message in self.client:
            self.asked.append(message.data)
            await message.reply(self.info)

    async def accept(self) -> None:
        async with self.client.listen("all") as server, asyncio.TaskGroup() as tasks:
            async for stream in server:
                tasks.create_task(self.serve(stream))

    async def serve(self, stream: Stream) -> None:
        opener = ShadowOpener(self.cipher, self.key)
        sealer = ShadowSealer(self.cipher, self.key, rng=lambda size: SALT[:size])
        got = b""
        with suppress(StreamError):
            while data := await stream.read():
                try:
                    got += opener.open(data)
                except RemoteProtocolError:
                    await stream.wait_closed()  # another cipher: it reads on in silence
                    return
                if (target := official.read_target(got)) is None:
                    continue
                if target[:2] != ("192.168.55.10", 8000):
                    self.targets.append(got[: target[2]])
                    await stream.close()
                    return
                if not self.targets or self.targets[-1] != TARGET:
                    self.targets.append(got[: len(TARGET)])
                if more := got[len(TARGET) :]:
                    stream.write(sealer.seal(more))
                    got = TARGET
                if b"bad" in more:
                    stream.write(b"not sealed, and as long as a length and its tag")
                if b"cut" in more:
                    stream.write(sealer.seal(b"12345678")[:-1])
                if b"bye" in more:
                    await stream.close()
                    return
            await stream.close()


@asynccontextmanager
async def serving(
    theirs: ShadowCipher = ShadowCipher.CHACHA20,
    ours: ShadowCipher = ShadowCipher.CHACHA20,
    password: str = "",
    net: Net | None = None,
) -> AsyncIterator[tuple[Server, NconnectDialler]]:
    async with (
        nullcontext(net) if net is not None else Net.running() as net,
        MultiClient(identifier="nConnect.x", seed_rpc=net.seed, sub_clients=2) as far,
        MultiClient(seed_rpc=net.seed, sub_clients=2) as near,
    ):
        server = Server(far, theirs, "")
        tasks = [asyncio.create_task(server.answer()), asyncio.create_task(server.accept())]
        await asyncio.sleep(0)
        try:
            yield server, NconnectDialler(near, far.address, cipher=ours, password=password)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.mark.parametrize("cipher", ShadowCipher)
def test_a_stream_reaches_its_target(cipher: ShadowCipher) -> None:
    async def test() -> None:
        async with serving(cipher, cipher) as (server, dialler):
            await dialler.check()
            for _ in range(2):
                stream = await dialler.open("192.168.55.10", 8000)
                data = bytes(100_000)
                stream.write(data)
                await stream.drain()
                stream.write(b"bye")
                got = b""
                while more := await stream.read():
                    got += more
                assert got == data + b"bye"
                await stream.wait_closed()
            assert server.targets[0] == bytes.fromhex("017f0000010001"), "the check, of nobody's port"
            assert server.targets[1:] == [TARGET]
            assert server.asked == [official.info_request()], "it is asked once"
            refused = await dialler.open("10.0.0.1", 1)
            assert await refused.read() == b""
            refused.abort()

    run(test, within_s=60.0)


def test_another_cipher_or_password_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nconnect_dialler, "OPEN_TIMEOUT_S", 2.0)

    async def test() -> None:
        async with serving(password="other") as (_, dialler):
            with pytest.raises(NetworkError, match="within 2 s: it has another cipher or password"):
                await dialler.check()
        async with serving(ours=ShadowCipher.DUMMY) as (_, dialler):
            with pytest.raises(NetworkError, match="another cipher or password"):
                await dialler.check()

    run(test, within_s=60.0)


@pytest.mark.parametrize("how", [b"bad", b"cut bye"])
def test_what_is_not_whole_or_not_authentic_is_an_error(how: bytes) -> None:
    async def test() -> None:
        async with serving() as (_, dialler):
            stream = await dialler.open("192.168.55.10", 8000)
            stream.write(how)
            assert await stream.read() == how
            with pytest.raises(StreamError, match=r"not authentic|was cut"):
                await stream.read()
            stream.abort()

    run(test, within_s=60.0)


def test_one_direction_ends_when_nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official_stream, "QUIET_END_S", 0.4)

    async def test() -> None:
        async with serving() as (_, dialler):
            stream = await dialler.open("192.168.55.10", 8000)
            stream._stream._session.knows_end = False  # as towards an official server
            stream.write(b"question")
            stream.write_eof()
            assert await stream.read() == b"question"
            assert await stream.read() == b""
            await stream.close()

    run(test, within_s=60.0)


def test_a_server_that_is_none_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nconnect_dialler, "_ANSWER_S", 0.5)

    async def test() -> None:
        async with serving() as (server, dialler):
            for answer, why in (
                ("hello", "JSON"),
                (official.error_answer("permission denied"), "permission denied"),
            ):
                server.info = answer
                with pytest.raises(StreamRefused, match=why):
                    await dialler.open("10.0.0.1", 80)
            nobody = NconnectDialler(
                dialler._client,
                "nConnect." + Identity(SALT).public_key.hex(),
                cipher=ShadowCipher.DUMMY,
                password="",
            )
            with pytest.raises(StreamRefused, match="not running"):
                await nobody.open("10.0.0.1", 80)
            with pytest.raises(NetworkError, match="not running"):
                await nobody.check()
            with pytest.raises(StreamRefused, match="255"):
                await dialler.open("x" * 256, 80)
            with pytest.raises(StreamRefused, match="UDP"):
                await dialler.datagrams()
            for text in ("nobody", "nConnect." + "ab" * 32):
                with pytest.raises(ConfigError):
                    NconnectDialler(dialler._client, text, cipher=ShadowCipher.DUMMY, password="")

    run(test, within_s=60.0)
