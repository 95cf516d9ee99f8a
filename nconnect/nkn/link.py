"""One link: from asking a seed to the login at a node, and again whenever it breaks. Pure.

    NEW -> RESOLVING -> CONNECTING -> AWAITING_CHALLENGE -> LOGGING_IN -> UP
              ^             ^  a redirect, from the last three  |          |
              |             +-----------------------------------+----------+
              +-- WAITING (backoff) <- any failure

After a node closed the connection, the link returns to it without asking a seed (`nconnect.nkn.reconnect`): a
node to which thousands of clients return then answers half as many requests.

The loop of a shell: call one input method, take every `poll_output()` and do it, then arm a timer for
`poll_timeout()`. Outputs name one thing in flight at a time: a resolve, a connect, or a connection. After
`Disconnect` none is left, and the shell reports nothing more of it.

An input that the state forbids is a bug of the shell: `LocalProtocolError`. Nothing that a node or a seed
sends raises an error: it is counted, and if it breaks the protocol, the link is given up, with backoff and
the next seed. Times are CLOCK_BOOTTIME seconds. The protocol's facts: docs/protocol.md, "NKN".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

from nconnect.crypto.keys import Identity
from nconnect.errors import LocalProtocolError, RemoteProtocolError
from nconnect.model import Deadline, NknAddress, Rng
from nconnect.nkn.backoff import Backoff
from nconnect.nkn.liveness import BUSY_S, DEAD_AFTER_S, Liveness, Step
from nconnect.nkn.outbound import OutboundPrefixes
from nconnect.nkn.outputs import (
    Connect,
    Disconnect,
    DownReason,
    LinkCounters,
    LinkDown,
    LinkUp,
    Output,
    Resolve,
    SendBinary,
    SendPing,
    SendText,
    Waived,
)
from nconnect.nkn.reconnect import ReconnectPolicy
from nconnect.nkn.states import LINK_TRANSITIONS, LinkState, LinkTrigger
from nconnect.nkn.ways import PLAIN_WAY, Way, redirected, ways_to
from nconnect.wire import actions, sigchain
from nconnect.wire.jsonrpc import NodeInfo, split_addr
from nconnect.wire.nkn import HeadCache, InboundMessage, Receipt, decode_client_message
from nconnect.wire.text import printable

# NKN.md: how long SDKs wait for a challenge before they take the node for an old one.
CHALLENGE_S = 5.0
# Ours, guessed.
RESOLVE_S = 5.0
CONNECT_S = 5.0
LOGIN_S = 5.0
RETURN_WITHIN_S = 1.0  # a host that takes longer to say no is gone: later attempts begin with the seeds
SHELL_SLACK_S = 1.0  # the shell's own time-out comes first, since its reason is the better one
MAX_REDIRECTS = 5  # in a row, without the link having been up for a while between them
MAX_BAD_FRAMES = 32  # a connection that brought more frames that make no sense is given up
MAX_PREV_HASH_BYTES = 64
RESTART_AFTER_S = 1.0  # an attempt older than this starts again when the network changes
SALT_BYTES = 32


# Failures after which the seed that named the node is asked last.
_ASK_ANOTHER = frozenset(
    {
        DownReason.UNREACHABLE,
        DownReason.TIMED_OUT,
        DownReason.BAD_SIGNATURE,
        DownReason.REFUSED,
        DownReason.BROKE_PROTOCOL,
        DownReason.WRONG_KEY,
        DownReason.REDIRECT_LOOP,
        DownReason.LOST,
    }
)
_OPEN = (LinkState.AWAITING_CHALLENGE, LinkState.LOGGING_IN, LinkState.UP)  # a websocket is open
_UP, _LOGGING_IN = LinkState.UP, LinkState.LOGGING_IN  # an enum's member costs a look-up in its class
_IN_FLIGHT = (LinkState.RESOLVING, LinkState.CONNECTING, *_OPEN)


class Link:
    """One link of one client. See the module for the loop that drives it."""

    def __init__(
        self,
        identity: Identity,
        address: NknAddress,
        seeds: Sequence[str],
        *,
        now: float,
        rng: Rng,
        last_node: NodeInfo | None = None,
        tls_only: bool = False,
    ) -> None:
        """`address` may be a sub-client's of the identity. `last_node`: tried when no seed answers.

        `tls_only`: over TLS, and verified, whichever seed names the node.
        """
        if address.public_key != identity.public_key:
            raise LocalProtocolError("a link's address must be of its own identity")
        if not seeds:
            raise LocalProtocolError("a link needs at least one seed")
        self.address = address
        self.state = LinkState.NEW
        self.node: NodeInfo | None = None  # that we are connecting or connected to
        self.is_named = False  # by a seed, in this attempt
        self.up_since: float | None = None
        self.last_error = ""  # of the newest failure, a sentence; "" once the link is up
        self.counters = LinkCounters()
        self.last_node = last_node  # the last that let us in: the shell may keep it for the next start
        self.way = PLAIN_WAY  # to `node`
        self.tls_only = tls_only
        self._last_way: Way | None = None  # to `last_node`; None: not found out
        self._identity = identity
        self.seeds = tuple(seeds)  # in the order in which they are asked next
        self._rng = rng
        self._backoff = Backoff(now=now, rng=rng)
        self.outputs: deque[Output] = deque()  # to be done at once; `poll_output` takes them from here
        # Hashes to sign for this connection. They may wait: a signature now would hold up the answer.
        self.receipts: deque[bytes] = deque()
        self._deadline: Deadline | None = None  # of every state but UP
        self._liveness = Liveness(now)
        self.deadline_moved = False  # by a data frame
        self.prefixes: OutboundPrefixes | None = None  # what begins outbound messages; while UP
        self._attempt_at = now
        self._no_seed: tuple[str, DownReason] | None = (
            None  # why no seed answered, when we fell back to the node that served us last
        )
        self._reconnect = ReconnectPolicy()
        self._returning = False  # this attempt is on its way there
        self._tls_first = False  # TLS got through last
        self._tried: NodeInfo | None = None  # it was there in vain, or this attempt is not to go there
        self._signed_in = False  # a signed login went out on this connection
        self._heads = HeadCache()
        self._redirects = 0
        self._bad_frames = 0  # on this connection

    # What a shell and a status ask

    def poll_output(self) -> Output | None:
        """The next thing to do; receipts come last, and are signed here."""
        if self.outputs:
            return self.outputs.popleft()
        if self.receipts:
            return self._receipt(self.receipts.popleft())
        return None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`. A data frame moves it if `deadline_moved` says so."""
        self.deadline_moved = False
        return self._liveness.poll_timeout() if self.state is LinkState.UP else self._deadline

    @property
    def is_up(self) -> bool:
        return self.state is _UP

    @property
    def rtt_s(self) -> float | None:
        """The newest round trip to the node; None while the link is not up, or nothing was measured yet."""
        return self._liveness.rtt_s if self.state is LinkState.UP else None

    @property
    def reconnects(self) -> int:
        return max(0, self.counters.logins - 1)

    # Data

    def outbound(
        self, dests: Sequence[str], payloads: Sequence[bytes], *, max_holding_seconds: int = 0
    ) -> bytes:
        """A whole outbound message to several, or one to be held; the frame to send.

        Raises `LocalProtocolError` unless the link is up, and where the message is too large.
        """
        if self.prefixes is None:
            raise LocalProtocolError("the link is not up")
        return self.prefixes.message(dests, payloads, max_holding_seconds=max_holding_seconds)

    def receive_binary(self, data: memoryview | bytes, now: float) -> InboundMessage | None:
        """Take a binary frame; return its message, whose payload is a view of `data`, or None (counted)."""
        liveness = self._liveness
        if not liveness.is_busy and now - liveness.heard_at < BUSY_S and self.state is _UP:
            liveness.became_busy(now)
            self.deadline_moved = True
        liveness.heard_at = now
        if self.state is not _UP and self.state is not _LOGGING_IN:
            # A node may hand over what it held before it confirms the login, but not before it was asked.
            self._must_be_open("a binary frame")
            self._bad_frame("a message came before the login", now)
            return None
        view = data if type(data) is memoryview else memoryview(data)
        known = self._heads.by_size.get(len(view))
        if known is not None and view[: len(known[0])] == known[0]:  # `HeadCache.find`, without a call
            return InboundMessage(known[1], view[len(known[0]) :])
        try:
            message = decode_client_message(view)
        except RemoteProtocolError as error:
            self._bad_frame(str(error), now)
            return None
        if not isinstance(message, InboundMessage) or len(message.prev_hash) > MAX_PREV_HASH_BYTES:
            self._bad_frame("a message that nodes do not send", now)
            return None
        if message.prev_hash:
            self.receipts.append(bytes(message.prev_hash))
        else:
            self._heads.keep(view, message.src, len(message.payload), message.payload)
        return message

    def heard(self, now: float) -> None:
        """Note that something came from the node (the other receive calls do this themselves)."""
        self._liveness.heard_at = now

    # Control

    def start(self, now: float) -> None:
        self._become(LinkTrigger.START)
        self._resolve(now)

    def resolved(self, node: NodeInfo, now: float, *, seed: str | None = None) -> None:
        """A seed named this node. `seed`, if it is one of ours, is asked first from now on."""
        self._become(LinkTrigger.RESOLVED)
        if seed in self.seeds:
            self.seeds = (seed, *(other for other in self.seeds if other != seed))
        self.is_named = True
        self._connect(node, self._ways_to(node, seed), now)

    def resolve_failed(self, why: str, now: float, *, reason: DownReason = DownReason.NO_SEED) -> None:
        """No seed answered. If the node that served us last was not tried yet, it is tried now.

        `reason` is `NO_SEED` or `LOGIN_PAGE`. After a login page the wait before the next attempt stays
        short, because a person is about to open it.
        """
        if self.last_node is not None and self.last_node != self._tried:
            self._become(LinkTrigger.FELL_BACK)
            self._no_seed = (why, reason)
            self._connect(self.last_node, self._ways_back(self.last_node), now)
        else:
            self._fail(why, reason, now)

    def connected(self, now: float, *, node: NodeInfo | None = None, way: Way | None = None) -> None:
        """The connection is open, by `way` (one of those in `Connect`) to `node` (if that was asked for)."""
        self._become(LinkTrigger.CONNECTED)
        self.node = node or self.node
        self.way = way or self.way
        self._tls_first = self.way.secure
        self._signed_in = False
        self._bad_frames = 0
        self._deadline = Deadline(now + CHALLENGE_S, "no challenge came")

    def disconnected(self, why: str, now: float) -> None:
        """A connect failed, or the connection broke."""
        if self.state is LinkState.CONNECTING:
            self._unreachable(why, now)
        else:
            self._must_be_open("a disconnect")
            self._reconnect.lost(self.node if self.state is LinkState.UP else None)
            self._fail(f"{self._node_name()}: {why}", DownReason.LOST, now)

    def receive_text(self, data: memoryview | bytes | str, now: float) -> None:
        """Take a text frame."""
        self._must_be_open("a text frame")
        self._liveness.heard_at = now
        try:
            action = actions.parse_node_action(data)
            if isinstance(action, actions.WrongNode):
                refuse_unusable(action.node)
        except RemoteProtocolError as error:
            self._bad_frame(str(error), now)
            return
        if isinstance(action, actions.BlockHashUpdate):
            if self.prefixes is not None:  # before the login is confirmed it comes with the confirmation
                self.prefixes.use_block_hash(action.block_hash)
        elif isinstance(action, actions.WrongNode):
            self._redirect(action.node, now)
        elif isinstance(action, actions.AuthChallenge) and self._may_be_challenged():
            self._log_in(action.challenge, now)
        elif isinstance(action, actions.ClientSet) and self.state is LinkState.LOGGING_IN:
            self._accepted(action, now)
        elif isinstance(action, actions.ErrorReply) and self.state is not LinkState.UP:
            self._refused(action, now)
        else:
            self.counters.ignored_actions += 1

    def pong(self, now: float) -> None:
        self._liveness.pong(now)

    def measure(self, now: float) -> None:
        """Measure the round trip at the next deadline, unless the last measurement is fresh."""
        if self.state is LinkState.UP:
            self._liveness.measure(now)

    def network_changed(self, now: float) -> None:
        """Addresses or routes changed, or the machine slept: check now, not at the next time-out."""
        self._reconnect.lost(None)
        if self.state is LinkState.UP:
            self._liveness.probe(now)
        elif self.state is LinkState.WAITING:
            self._wait(min(self._deadline_at(), now + self._backoff.earliest_s(now)))
        elif self.state in _IN_FLIGHT and now - self._attempt_at > RESTART_AFTER_S:
            why = "the network changed while connecting"
            self._fail(why, DownReason.NETWORK_CHANGED, now, abandon=True)
            self._wait(now + self._backoff.earliest_s(now))

    def handle_timeout(self, now: float) -> None:
        """Do what is due; a call before the deadline is harmless."""
        if self.state is LinkState.UP:
            self._check_liveness(now)
        elif self._deadline is None or now < self._deadline.at:
            return
        elif self.state is LinkState.WAITING:
            self._try_again(now)
        elif self.state is LinkState.RESOLVING:
            self.outputs.append(Disconnect("no seed answered"))
            self.resolve_failed(f"no seed answered within {RESOLVE_S:g} s", now)
        elif self.state is LinkState.CONNECTING:
            why = f"{self._node_name()} did not take the connection within {CONNECT_S:g} s"
            self._unreachable(why, now, abandon=True)
        elif self.state is LinkState.AWAITING_CHALLENGE:
            self._log_in(None, now)
        else:
            why = f"{self._node_name()} did not answer the login within {LOGIN_S:g} s"
            self._fail(why, DownReason.TIMED_OUT, now, abandon=True)

    def stop(self, now: float) -> None:
        """Give up what is in flight; `start` begins again."""
        was_up, in_flight = self.state is LinkState.UP, self.state in _IN_FLIGHT
        self._become(LinkTrigger.STOP)
        self._left(now)
        self._deadline = None
        self._reconnect.lost(None)
        if in_flight:
            self.outputs.append(Disconnect("stopped"))
        if was_up:
            self.outputs.append(LinkDown("stopped", DownReason.STOPPED))

    # Below: in the order of a login

    def _receipt(self, prev_hash: bytes) -> SendBinary:
        self.counters.receipts += 1
        signature = self._identity.sign(sigchain.receipt_digest(prev_hash))
        return SendBinary(Receipt(prev_hash, signature).encode())

    def _try_again(self, now: float) -> None:
        node = self._reconnect.choose()
        if node is None:
            self._become(LinkTrigger.RETRY)
            self._resolve(now)
            self._tried = self._reconnect.node
        else:
            self._become(LinkTrigger.RETURNED)
            self._begin_attempt(now)
            self._returning = True
            self._connect(node, self._ways_back(node), now)

    def _ask_after_all(self, why: str, now: float, *, abandon: bool) -> None:
        """The node that we returned to is not there: ask the seeds in the same attempt."""
        if now - self._attempt_at > RETURN_WITHIN_S:
            self._reconnect.lost(None)
        self._returning, self._tried = False, self.node
        if abandon:
            self.outputs.append(Disconnect(why))
        if self._reconnect.in_turn:
            self._become(LinkTrigger.FAILED)
            self._wait(now + self._backoff.failed(now, self._reconnect.share))
        else:
            self._become(LinkTrigger.ASKED_AFTER_ALL)
            self._ask_seeds(now)

    def _resolve(self, now: float) -> None:
        self._begin_attempt(now)
        self._ask_seeds(now)

    def _ask_seeds(self, now: float) -> None:
        self._deadline = Deadline(now + RESOLVE_S + SHELL_SLACK_S, "no seed answered")
        self.outputs.append(Resolve(self.seeds, str(self.address), RESOLVE_S))

    def _ways_to(self, node: NodeInfo, seed: str | None) -> tuple[Way, ...]:
        ways = ways_to(node, seed, self.seeds, tls_first=self._tls_first)
        if self.tls_only and not ways[0].is_verified:
            return (Way(secure=True, verify=True),)
        return ways

    def _ways_back(self, node: NodeInfo) -> tuple[Way, ...]:
        """To the node that served us last: as then."""
        return self._ways_to(node, None) if self._last_way is None else (self._last_way,)

    def _connect(self, node: NodeInfo, ways: tuple[Way, ...], now: float) -> None:
        self.node, self.way = node, ways[0]
        self._deadline = Deadline(now + CONNECT_S + SHELL_SLACK_S, "the node did not take the connection")
        self.outputs.append(Connect(node, CONNECT_S, ways))

    def _unreachable(self, why: str, now: float, *, abandon: bool = False) -> None:
        if self._returning:
            self._ask_after_all(why, now, abandon=abandon)
        elif self._no_seed:  # which is what a user can mend, not where we went for want of a seed
            self._fail(*self._no_seed, now, abandon=abandon)
        else:
            self._fail(why, DownReason.UNREACHABLE, now, abandon=abandon)

    def _may_be_challenged(self) -> bool:
        """Once for each connection: a node gets no second signature from us."""
        return self.state is not LinkState.UP and not self._signed_in

    def _log_in(self, challenge: bytes | None, now: float) -> None:
        self._become(LinkTrigger.LOGIN_SENT)
        salt = signature = b""
        if challenge is not None:
            salt = self._rng(SALT_BYTES)
            signature = self._identity.sign(sigchain.login_digest(challenge, salt))
            self._signed_in = True
        self._deadline = Deadline(now + LOGIN_S, "the node did not answer the login")
        self.outputs.append(SendText(actions.SetClient(str(self.address), salt, signature).encode()))

    def _accepted(self, answer: actions.ClientSet, now: float) -> None:
        assert self.node is not None
        if answer.node is not None and answer.node.public_key != self.node.public_key:
            why = f"{self._node_name()} has another key than the node that was looked for"
            self.last_node = None
            if self._returning:  # restarted with another key
                self._reconnect.lost(None)
                self._ask_after_all(why, now, abandon=True)
            else:
                self._fail(why, DownReason.WRONG_KEY, now, abandon=True)
            return
        self._become(LinkTrigger.ACCEPTED)
        signatures = actions.Waiver.SIGNATURES in answer.waives
        self.prefixes = OutboundPrefixes(
            self._identity,
            self.address,
            node_key=self.node.public_key_bytes,
            block_hash=answer.block_hash,
            signed=not signatures,
            rng=self._rng,
        )
        self._liveness = Liveness(now)
        self._deadline = None
        self.up_since = now
        self.last_node, self._last_way = self.node, replace(self.way, ask=None)
        self.last_error = ""
        self.counters.logins += 1
        self.outputs.append(Waived(signatures, actions.Waiver.MASK in answer.waives))
        self.outputs.append(LinkUp(self.node))

    def _refused(self, refusal: actions.ErrorReply, now: float) -> None:
        bad_signature = refusal.code == actions.INVALID_SIGNATURE
        reason = DownReason.BAD_SIGNATURE if bad_signature else DownReason.REFUSED
        said = f"error {refusal.code} {printable(refusal.description)}".rstrip()
        what = "refused our signature" if bad_signature else "refused the login"
        self._fail(f"{self._node_name()} {what} ({said})", reason, now, abandon=True)

    def _redirect(self, node: NodeInfo, now: float) -> None:
        was_up = self.state is LinkState.UP
        self._left(now)
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            why = f"nodes sent this client from one to the next {MAX_REDIRECTS} times in a row"
            self._fail(why, DownReason.REDIRECT_LOOP, now, abandon=True)
            return
        why = f"{self._node_name()} is not this client's node: going to {node.addr}"
        self._become(LinkTrigger.REDIRECTED)
        self.outputs.append(Disconnect(why))
        if was_up:
            self.outputs.append(LinkDown(why, DownReason.REDIRECTED))
        self._begin_attempt(now)
        self._connect(node, (redirected(node, self.way, self.seeds),), now)

    def _check_liveness(self, now: float) -> None:
        verdict = self._liveness.handle_timeout(now)
        if verdict is Step.PING:
            self.outputs.append(SendPing())
        elif verdict is Step.DEAD:
            silent_s = min(now - self._liveness.heard_at, DEAD_AFTER_S)
            why = f"{self._node_name()} has been silent for {silent_s:.0f} s"
            self._fail(why, DownReason.SILENT, now, abandon=True)

    def _bad_frame(self, why: str, now: float) -> None:
        """Count it. A node that is up may make a mistake now and then; otherwise the link is given up."""
        self.counters.bad_frames += 1
        self._bad_frames += 1
        if self.state is not LinkState.UP or self._bad_frames > MAX_BAD_FRAMES:
            why = f"{self._node_name()} does not speak NKN's protocol: {why}"
            self._fail(why, DownReason.BROKE_PROTOCOL, now, abandon=True)

    def _fail(self, why: str, reason: DownReason, now: float, *, abandon: bool = False) -> None:
        """The attempt failed or the link broke. `abandon`: something is still in flight."""
        if reason in _ASK_ANOTHER:
            self.seeds = (*self.seeds[1:], self.seeds[0])
        self._left(now)
        self._become(LinkTrigger.FAILED)
        self._redirects = 0
        self.last_error = why
        if abandon:
            self.outputs.append(Disconnect(why))
        self.outputs.append(LinkDown(why, reason))
        if reason in (DownReason.NO_SEED, DownReason.LOGIN_PAGE):
            self._reconnect.found_nothing()
        soon = reason is DownReason.LOGIN_PAGE
        self._wait(now + self._backoff.failed(now, self._reconnect.share, soon=soon))

    def _left(self, now: float) -> None:
        """Reset what belongs to the connection: the link is no longer UP."""
        if self.up_since is not None and self._backoff.was_up(now - self.up_since):
            self._redirects = 0
        self.up_since = None
        self.prefixes = None
        self.receipts.clear()  # no other connection's node wants them

    def _begin_attempt(self, now: float) -> None:
        self._backoff.attempted(now, self._reconnect.share)
        self._attempt_at = now
        self._no_seed = None
        self.is_named = False
        self._returning, self._tried = False, None

    def _wait(self, until: float) -> None:
        self._deadline = Deadline(until, "try again")

    def _deadline_at(self) -> float:
        assert self._deadline is not None
        return self._deadline.at

    def _become(self, event: LinkTrigger) -> None:
        state = LINK_TRANSITIONS[self.state].get(event)
        if state is None:
            raise LocalProtocolError(f"a link that is {self.state.name} cannot take {event.name}")
        self.state = state

    def _must_be_open(self, what: str) -> None:
        if self.state not in _OPEN:
            raise LocalProtocolError(f"a link that is {self.state.name} cannot take {what}")

    def _node_name(self) -> str:
        return f"node {self.node.addr}" if self.node else "the node"


def refuse_unusable(node: NodeInfo) -> None:
    """Raise `RemoteProtocolError` if it is impossible to connect to this node's address."""
    host, _ = split_addr(node.addr)
    try:
        address = ip_address(host)
    except ValueError:
        if not all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
            raise RemoteProtocolError("node: not a host name") from None  # RFC 1035 section 2.3.4
        return
    if address.is_unspecified or address.is_multicast:
        raise RemoteProtocolError(f"{node.addr} is no address of a node (is its --advertise wrong?)")
