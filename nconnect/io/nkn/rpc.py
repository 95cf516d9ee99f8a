"""Asking seeds: which node serves an address, and what the chain says (`ask_chain`).

Seeds are asked one after another without waiting for slow ones: the next one when one fails, or 0.3 s after
the last was asked. The first good answer wins. A silent seed is asked again each second until the time is
over, on a new connection, because the kernel repeats a lost SYN only after one, two, four seconds. A seed
whose name is still being looked up is not asked again: that would only wait for the same look-up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.config.seed_url import is_secure, place_of
from nconnect.errors import (
    LoginPageError,
    NconnectError,
    NetworkError,
    RemoteProtocolError,
    TlsError,
    WayOutError,
)
from nconnect.io.http import http_client
from nconnect.io.http.http import Response
from nconnect.io.net import resolve as names
from nconnect.io.net.tls import speaks_tls
from nconnect.model import join_addr
from nconnect.nkn.link import refuse_unusable
from nconnect.nkn.ways import STAGGER_S
from nconnect.wire import jsonrpc
from nconnect.wire.jsonrpc import NodeInfo, RpcError
from nconnect.wire.login_page import login_page, over_tls
from nconnect.wire.strict_json import MAX_JSON_BYTES

_T = TypeVar("_T")

_ASK_AGAIN_S = 1.0
ASK_AGAIN_CONNECTED_S = 3.0  # guessed
_SLACK_S = 1.0  # the race's end comes before that of each question, so that it says why in its own words
MAX_ANSWER_BYTES = 64 * 1024  # guessed: a real answer has under 2 KB


@dataclass(frozen=True, slots=True)
class Resolution:
    """The node that serves an address, and the seed that said so."""

    node: NodeInfo
    seed: str


async def resolve(
    seeds: Sequence[str],
    address: str,
    *,
    timeout_s: float,
    proxies: Proxies = UNPROXIED,
) -> NodeInfo:
    """The node that serves `address`; raises `NetworkError` in one line when no seed names one."""
    found = await first_answer(seeds, address, timeout_s=timeout_s, proxies=proxies)
    return found.node


async def first_answer(
    seeds: Sequence[str],
    address: str,
    *,
    timeout_s: float,
    tls: bool = False,
    proxies: Proxies = UNPROXIED,
) -> Resolution:
    """As `resolve`, and which seed it was. A seed that is asked over TLS names the node's TLS address; with
    `tls` every seed does.

    `proxies`: the way to the seeds. Where none answers because of a proxy or a login page, that error is
    raised.
    """

    async def ask(seed: str, on_connected: Callable[[], None]) -> NodeInfo:
        patience_s = timeout_s + _SLACK_S
        return await ask_node(
            seed, address, timeout_s=patience_s, tls=tls, proxies=proxies, on_connected=on_connected
        )

    hint = "check this device's connection and [network] seed_rpc"
    return Resolution(*await _Race(seeds, ask, "no seed named a node", hint).run(timeout_s))


async def ask_chain(
    seeds: Sequence[str],
    method: str,
    params: dict[str, object],
    *,
    timeout_s: float,
    proxies: Proxies = UNPROXIED,
) -> tuple[Any, str]:
    """The first answer of a seed to a call that changes nothing, and that seed.

    Raises `NetworkError` in one line when no seed has an answer.
    """

    async def ask(seed: str, on_connected: Callable[[], None]) -> Any:
        return await call(
            seed,
            method,
            params,
            timeout_s=timeout_s + _SLACK_S,
            max_answer_bytes=MAX_JSON_BYTES,
            proxies=proxies,
            on_connected=on_connected,
        )

    hint = "check this device's connection and chain_rpc (`nconnect node` has no chain)"
    return await _Race(seeds, ask, f"no seed answered {method}", hint).run(timeout_s)


async def ask_node(
    seed: str,
    address: str,
    *,
    timeout_s: float,
    tls: bool = False,
    proxies: Proxies = UNPROXIED,
    on_connected: Callable[[], None] | None = None,
) -> NodeInfo:
    """Ask one seed, for a TLS address with `tls` or where the seed is asked over TLS.

    Raises `NetworkError` or `RemoteProtocolError`.
    """
    answer = await call(
        seed,
        "getwssaddr" if tls or is_secure(seed) else "getwsaddr",
        {"address": address},
        timeout_s=timeout_s,
        proxies=proxies,
        on_connected=on_connected,
    )
    node = NodeInfo.from_json(answer)
    refuse_unusable(node)
    return node


async def call(
    url: str,
    method: str,
    params: dict[str, object],
    *,
    timeout_s: float,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
    proxies: Proxies = UNPROXIED,
    on_connected: Callable[[], None] | None = None,
) -> Any:
    """One JSON-RPC call: its result. An error answer is a `RemoteProtocolError` too.

    A plain http URL that has moved for good to the same host over TLS is asked there. What else answers like
    a captive portal is a `LoginPageError`; over TLS nobody but the seed can answer. A server that takes a
    plain connection and wants TLS is a `TlsError`.
    """
    body = jsonrpc.encode_request(method, params)
    is_taken = False

    def on_taken() -> None:
        nonlocal is_taken
        is_taken = True
        if on_connected is not None:
            on_connected()

    async def ask(url: str) -> Response:
        return await http_client.request(
            "POST",
            url,
            body=body,
            headers=(("Content-Type", "application/json"),),
            timeout_s=timeout_s,
            max_body_bytes=max_answer_bytes,
            cut=True,
            proxies=proxies,
            on_connected=on_taken,
        )

    try:
        response = await ask(url)
    except (NetworkError, RemoteProtocolError) as error:
        if is_taken and not isinstance(error, WayOutError) and error.__cause__ is not None:
            await _refuse_plain_to_tls(url, proxies)
        raise
    if response.status == 400:  # how Go's and other servers answer plain HTTP on a port for TLS
        await _refuse_plain_to_tls(url, proxies)
    moved = over_tls(url, response.status, response.header("location"))
    if moved is not None:
        response = await ask(moved)
    elif url.startswith("http:"):
        page = login_page(
            url,
            response.status,
            response.header("location"),
            response.header("content-type"),
            response.body,
        )
        if page is not None:
            raise LoginPageError(page, by_itself=response.status == 200)
    if response.status == 429:  # the official node's: ten a second, and a hundred at once
        raise RemoteProtocolError("it is asked too often from this address (HTTP 429)")
    if response.status != 200:
        raise RemoteProtocolError(f"it answered HTTP {response.status}")
    if len(response.body) > max_answer_bytes:
        raise RemoteProtocolError(f"the answer is longer than {max_answer_bytes} bytes")
    try:
        result = jsonrpc.parse_response(response.body)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"it is no NKN seed ({error})") from error
    if isinstance(result, RpcError):
        words = ": ".join(filter(None, (result.message[:100], result.data[:100])))
        raise RemoteProtocolError(f"it refused: error {result.code} {words!r}")
    return result


async def _refuse_plain_to_tls(url: str, proxies: Proxies) -> None:
    """Raise `TlsError` if the URL is plain http and its server wants TLS."""
    host, port = place_of(url)
    if not is_secure(url) and host and await speaks_tls(host, port, proxies):
        raise TlsError(f"{join_addr(host, port)} speaks TLS", "is it https://?")


class _Race(Generic[_T]):
    """Many seeds, one winner. Failures are kept by seed, so that the error can tell what was tried."""

    def __init__(
        self,
        seeds: Sequence[str],
        ask: Callable[[str, Callable[[], None]], Coroutine[Any, Any, _T]],
        failed: str,
        hint: str,
    ) -> None:
        """`failed`: what the error says first if nobody wins. `hint`: what it says to do."""
        self._seeds = tuple(dict.fromkeys(seeds))
        self._ask = ask
        self._failed, self._hint = failed, hint
        self._running: dict[asyncio.Task[_T], str] = {}
        self._failures: dict[str, str] = {}
        self._connected: dict[str, float] = {}  # seed -> when it last took a connection
        self._just_failed = False
        self._in_the_way: WayOutError | None = None  # the newest failure that is no seed's own

    async def run(self, timeout_s: float) -> tuple[_T, str]:
        """The first good answer, and its seed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        waiting = list(self._seeds)
        try:
            while loop.time() < end:
                if not waiting and not self._running:
                    break
                if waiting:
                    self._launch(waiting.pop(0))
                pause = STAGGER_S if waiting else _ASK_AGAIN_S
                winner = await self._wait(min(pause, end - loop.time()))
                if winner is not None:
                    return winner
                if not waiting and not self._just_failed:
                    waiting = self._worth_asking_again()
            raise self._no_answer(timeout_s)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _launch(self, seed: str) -> None:
        def connected() -> None:
            self._connected[seed] = asyncio.get_running_loop().time()

        self._running[asyncio.create_task(self._ask(seed, connected), name=f"ask {seed}")] = seed

    async def _wait(self, pause_s: float) -> tuple[_T, str] | None:
        """Until one has answered or failed, or the pause is over."""
        done, _ = await asyncio.wait(
            self._running, timeout=max(0.0, pause_s), return_when=asyncio.FIRST_COMPLETED
        )
        self._just_failed = bool(done)
        # By the order in which they were asked, so that the outcome does not hang on a set's order.
        for task in [task for task in self._running if task in done]:
            seed = self._running.pop(task)
            try:
                return task.result(), seed
            except NconnectError as error:
                self._failures[seed] = str(error)
                # Its traceback leads back to its task: such cycles are garbage that is found late.
                error.with_traceback(None)
                if isinstance(error, WayOutError):
                    self._in_the_way = error
        return None

    def _silent(self) -> list[str]:
        """Seeds that neither answered nor failed."""
        return [seed for seed in self._seeds if seed not in self._failures]

    def _worth_asking_again(self) -> list[str]:
        """The silent ones, without those whose name is being looked up or that just took a connection."""
        since = asyncio.get_running_loop().time() - ASK_AGAIN_CONNECTED_S
        return [
            seed
            for seed in self._silent()
            if self._connected.get(seed, since) <= since and not names.is_asking(place_of(seed)[0])
        ]

    def _no_answer(self, timeout_s: float) -> NetworkError:
        if not self._seeds:
            return NetworkError("there is no seed to ask (add one to [network] seed_rpc)")
        if self._in_the_way is not None:
            error, self._in_the_way = self._in_the_way, None  # else it would hold us, and we it
            return error
        for seed in self._silent():
            unanswered = names.is_asking(place_of(seed)[0])
            self._failures[seed] = names.UNANSWERED if unanswered else f"no answer within {timeout_s:g} s"
        reasons = Counter(_without(seed, why) for seed, why in self._failures.items())
        reason = max(reasons, key=lambda why: reasons[why])
        tried = ", ".join(self._seeds[:3]) + (f" and {len(self._seeds) - 3} more" * (len(self._seeds) > 3))
        return NetworkError(f"{self._failed}: {reason} (tried {tried}): {self._hint}")


def _without(seed: str, why: str) -> str:
    """A failure's reason without the seed's name, so that equal reasons count together."""
    place = seed.partition("://")[2].strip("/")
    return why.removeprefix(f"{place}: ").removeprefix(f"{place} ")
