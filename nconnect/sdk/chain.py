"""What programs read of NKN's chain, and the transactions that they send to it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from nconnect.config.proxy import Proxies, of_setting, parse_proxy_setting
from nconnect.crypto.keys import Identity, InvalidKey, dh_public_of
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.io.nkn import rpc
from nconnect.model import PUBLIC_SEED_RPC, NknAddress
from nconnect.wire import chain
from nconnect.wire.chain import Registrant, Subscription

CHAIN_TIMEOUT_S = 10.0  # guessed: a public seed answers within a second
PAGE_SUBSCRIBERS = 256  # guessed: with meta of 1,024 bytes each, under half a megabyte
MAX_NAMES = 4096  # guessed: registrants that a client remembers


class NknChain:
    """NKN's chain as its seeds tell it. A node can say anything: what it says is not proven.

    Each client has one (`client.chain`); a program that does not send messages makes its own.
    """

    def __init__(self, seed_rpc: str | Iterable[str] = PUBLIC_SEED_RPC, *, proxy: str | None = None) -> None:
        """`seed_rpc`: the seeds to ask. The first good answer counts. `proxy`: as for clients.

        Raises `ConfigError`.
        """
        self._seeds = (seed_rpc,) if isinstance(seed_rpc, str) else tuple(seed_rpc)
        self._proxies = proxies_of(proxy)
        self._keys: dict[str, bytes] = {}  # name -> its registrant, as it was first answered
        if not self._seeds:
            raise ConfigError("chain_rpc is empty: name at least one seed (http://HOST:30003)")

    async def subscribers(
        self,
        topic: str,
        *,
        offset: int = 0,
        limit: int = PAGE_SUBSCRIBERS,
        pending: bool = False,
        timeout_s: float = CHAIN_TIMEOUT_S,
    ) -> dict[str, str]:
        """The clients that subscribed to a topic: address -> meta, which anybody can have written.

        At most `limit` (1 to 1,000), from number `offset` on, in the order of a hash. `pending`: also those
        whose transaction is not in a block yet. Raises `ConfigError`, `NetworkError`,
        `RemoteProtocolError`.
        """
        chain.check_topic(topic)
        if not 1 <= limit <= chain.MAX_SUBSCRIBERS or offset < 0:
            raise ConfigError(f"limit is 1 to {chain.MAX_SUBSCRIBERS}, and offset not below 0")
        params: dict[str, object] = {"topic": topic, "offset": offset, "limit": limit}
        params |= {"meta": True, "txPool": pending}
        return chain.read_subscribers(await self._ask("getsubscribers", params, timeout_s))

    async def subscriber_count(self, topic: str, *, timeout_s: float = CHAIN_TIMEOUT_S) -> int:
        """How many clients subscribed to a topic. Raises as `subscribers`."""
        chain.check_topic(topic)
        return chain.read_count(await self._ask("getsubscriberscount", {"topic": topic}, timeout_s))

    async def subscription(
        self, topic: str, subscriber: str, *, timeout_s: float = CHAIN_TIMEOUT_S
    ) -> Subscription | None:
        """The subscription of a client, None if there is none. Raises as `subscribers`."""
        chain.check_topic(topic)
        params: dict[str, object] = {"topic": topic, "subscriber": str(NknAddress.parse(subscriber))}
        return chain.read_subscription(await self._ask("getsubscription", params, timeout_s))

    async def registrant(self, name: str, *, timeout_s: float = CHAIN_TIMEOUT_S) -> Registrant | None:
        """Who registered a name, None if nobody has. Each call asks anew. Raises as `subscribers`."""
        chain.check_name(name)
        return chain.read_registrant(await self._ask("getregistrant", {"name": name}, timeout_s))

    async def resolve(self, address: str, *, timeout_s: float = CHAIN_TIMEOUT_S) -> str:
        """`IDENTIFIER.KEY` of `IDENTIFIER.NAME`, where NAME is registered; other addresses stay as they are.

        The first answer for a name is kept for the life of this object: later answers do not change where
        messages go. Raises `ConfigError` for an address that is none and for a name that nobody has,
        `NetworkError`, `RemoteProtocolError`.
        """
        name = chain.name_in(address)
        if name is None:
            return str(NknAddress.parse(address))
        if name not in self._keys:
            found = await self.registrant(name, timeout_s=timeout_s)
            if found is None:
                raise ConfigError(f"nobody has registered the name {name!r}: check its spelling")
            try:
                dh_public_of(found.public_key)
            except InvalidKey as error:
                raise RemoteProtocolError(f"the registrant of {name!r} is {error}") from None
            while len(self._keys) >= MAX_NAMES:
                del self._keys[next(iter(self._keys))]
            self._keys.setdefault(name, found.public_key)
        return str(NknAddress(address.strip().rpartition(".")[0], self._keys[name]))

    async def submit(self, payload: chain.ChainPayload, identity: Identity) -> str:
        """Sign a transaction with the next nonce of the identity's wallet, and send it to one seed.

        Its hash (hex). Raises `RemoteProtocolError` if that seed refused it, `NetworkError`: then the
        network may have it or not.
        """
        wallet: dict[str, object] = {"address": chain.wallet_address(identity.public_key)}
        answer, seed = await rpc.ask_chain(
            self._seeds, "getnoncebyaddr", wallet, timeout_s=CHAIN_TIMEOUT_S, proxies=self._proxies
        )
        made = chain.transaction(
            payload, nonce=chain.read_nonce(answer), public_key=identity.public_key, sign=identity.sign
        )
        params: dict[str, object] = {"tx": made.encoded.hex()}
        await rpc.call(seed, "sendrawtransaction", params, timeout_s=CHAIN_TIMEOUT_S, proxies=self._proxies)
        return made.hash

    async def _ask(self, method: str, params: dict[str, object], timeout_s: float) -> Any:
        answer, _ = await rpc.ask_chain(
            self._seeds, method, params, timeout_s=timeout_s, proxies=self._proxies
        )
        return answer


def proxies_of(setting: str | None) -> Proxies:
    """The way out: what a `proxy` argument says, or the environment. Raises `ConfigError`."""
    try:
        chosen = None if setting is None else parse_proxy_setting(setting)
    except ConfigError as error:
        raise ConfigError(f"proxy: {error}") from None
    return of_setting(chosen, os.environ)
