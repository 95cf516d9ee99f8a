"""`python -m lab.attack.streamer SEED_RPC SEED HONEST_SEED DEST`: a client that attacks a listener's streams.

Its key is in the listener's accept list, and so is that of an honest client. It makes its packets itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from lab.attack.commands import obey
from nconnect.errors import NconnectError
from nconnect.model import NknAddress
from nconnect.nkn import MultiClient
from nconnect.nkn.exchange import IncomingPacket
from nconnect.sdk.sub_link import SubLink
from nconnect.wire.ncp import NcpPacket

SUB_CLIENT = "__0__"
MTU_BYTES = 1024
WINDOW_BYTES = 4 << 20
ENDLESS = b"!"  # what the server behind the listener answers without an end; to the rest it is an echo
EVERYTHING = (1 << 32) - 1
PACE = 200  # packets between two pauses, so that the node carries them
PAUSE_S = 0.02
HONEST_S = 10.0


class Streamer:
    """Two clients, and attacks by name."""

    def __init__(self, hostile: MultiClient, honest: MultiClient, dest: str) -> None:
        self._client = hostile
        self._honest = honest
        self._dest = NknAddress.parse(dest)
        self._streams = hostile._streams
        self._received: dict[bytes, list[NcpPacket]] = {}  # of sessions whose packets are looked at
        self._streams.on_packet = self._on_packet  # type: ignore[method-assign]

    async def do(self, command: str, *words: str) -> object:
        result: object = await getattr(self, command)(*words)
        return result

    async def ask(self) -> float | str:
        """Seconds that the honest client waits for an echo over a new stream, or why there was none."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(HONEST_S):
                stream = await self._honest.dial(str(self._dest), timeout_s=HONEST_S)
                async with stream:
                    stream.write(b"hello")
                    answer = await stream.read()
        except (NconnectError, TimeoutError) as error:
            return str(error) or type(error).__name__
        return time.monotonic() - began if answer == b"hello" else f"the answer {answer!r}"

    async def nothing(self, count: str) -> int:
        """Handshakes that allow nothing: a window of 0, packets of 0 bytes, no sub-clients. How many."""
        wrong = (
            NcpPacket(handshake=True, client_ids=(SUB_CLIENT,), mtu=MTU_BYTES),
            NcpPacket(handshake=True, client_ids=(SUB_CLIENT,), window_size=WINDOW_BYTES),
            NcpPacket(handshake=True, window_size=WINDOW_BYTES, mtu=MTU_BYTES),
        )
        for number in range(int(count)):
            await self._send(os.urandom(8), wrong[number % 3], number)
        return int(count)

    async def sessions(self, count: str) -> int:
        """Opens so many sessions, and says nothing more. How many the listener answered and left open."""
        for number in range(int(count)):
            id = os.urandom(8)
            self._received[id] = []
            await self._send(id, _handshake(), number)
        await asyncio.sleep(2.0)
        still_open = sum(
            any(packet.handshake for packet in packets) and not any(packet.close for packet in packets)
            for packets in self._received.values()
        )
        self._received.clear()
        return still_open

    async def false_acks(self, seconds: str) -> int:
        """Lets the listener send without an end, and acknowledges all that there could be; bytes that came.

        It says that its program has read more bytes than there are, and it never reads one.
        """
        id = os.urandom(8)
        packets = self._received[id] = []
        await self._send(id, _handshake(), 0)
        await self._send(id, NcpPacket(sequence_id=1, data=ENDLESS), 0)
        lies = (
            NcpPacket(ack_counts=(EVERYTHING,), bytes_read=(1 << 64) - 1),
            NcpPacket(ack_starts=(1,), ack_counts=(EVERYTHING,), bytes_read=1 << 63),
            NcpPacket(ack_starts=tuple(range(1, 400)), bytes_read=1 << 40),
        )
        end, number, came = time.monotonic() + float(seconds), 0, 0
        while time.monotonic() < end:
            await self._send(id, lies[number % 3], number)
            number += 1
            if not number % 8:
                await asyncio.sleep(PAUSE_S)
                came += sum(len(packet.data) for packet in packets)
                packets.clear()
        await self._send(id, NcpPacket(close=True), 0)
        del self._received[id]
        return came

    def _on_packet(self, link: SubLink, packet: IncomingPacket) -> None:
        if packet.session_id in self._received:
            self._received[packet.session_id].append(NcpPacket.decode(bytes(packet.data)))

    async def _send(self, id: bytes, packet: NcpPacket, number: int) -> None:
        if number % PACE == PACE - 1:
            await asyncio.sleep(PAUSE_S)
        self._streams._transmit(id, str(self._dest), SUB_CLIENT, SUB_CLIENT, packet.encode())


def _handshake() -> NcpPacket:
    return NcpPacket(handshake=True, client_ids=(SUB_CLIENT,), window_size=WINDOW_BYTES, mtu=MTU_BYTES)


async def _main(seed_rpc: str, seed: str, honest_seed: str, dest: str) -> None:
    async with (
        MultiClient(seed, sub_clients=1, seed_rpc=seed_rpc) as hostile,
        MultiClient(honest_seed, sub_clients=1, seed_rpc=seed_rpc) as honest,
    ):
        await obey(Streamer(hostile, honest, dest).do)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
