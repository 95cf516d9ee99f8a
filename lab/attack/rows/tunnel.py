"""What a hostile node, stranger or peer sends into a tunnel: each is dropped and counted by name."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.attack.attack import Attack, Result
from lab.attack.stage import Stage

COUNTED_WITHIN_S = 5.0


def _sent(by: str, name: str, reason: str, victim: str) -> Callable[[Stage], Result]:
    """A command to the hostile program `by`; `reason` must be counted at the victim, if there is one."""

    def run(stage: Stage) -> Result:
        side = stage.side(victim)
        before = side.drops(reason)
        words = [name]
        if by == "node":
            words.append(side.address())
            if name == "reflect":
                words.append(stage.world.provider_side.address())
        stage.programs[by].do(*words)
        if not reason:
            return Result()
        deadline = time.monotonic() + COUNTED_WITHIN_S
        while not (counted := side.drops(reason) - before):
            if time.monotonic() > deadline:
                return Result(achieved=f"it was not counted as {reason}")
            time.sleep(0.05)
        return Result(seen=f"{reason} +{counted}")

    return run


def _read(stage: Stage) -> Result:
    """The node looks for the chat in what it relays."""
    seen = stage.programs["node"].do("search", "HTTP/1.1", "Content-Type", "river", "model")
    if not seen["kept"]:
        return Result("the row failed: the node has kept nothing")
    return Result(
        f"{seen['found']} messages show the chat" if seen["found"] else "",
        f"none of {seen['kept']} messages shows it",
    )


def _attack(by: str, name: str, reason: str, what: str, victim: str = "provider") -> Attack:
    return Attack(by, name, what, _sent(by, name, reason, victim))


ROWS = (
    Attack("node", "read", "looking for the chat in what it relays", _read),
    _attack("node", "replay", "replayed", "the last frames again"),
    _attack("node", "duplicate", "replayed", "one frame 200 times"),
    _attack("node", "flip_bits", "not_authentic", "new counters, a bit changed"),
    _attack("node", "truncate", "malformed", "frames cut short"),
    _attack("node", "late", "no_session", "frames of a session that is over"),
    _attack("node", "reflect", "no_session", "a client's own frames back to it", victim="user"),
    _attack("node", "replay_handshake", "handshake_replayed", "an old initiation again"),
    _attack("node", "flood_handshakes", "handshake_flood", "an old initiation 5,000 times"),
    _attack("node", "forge_sender", "not_authentic", "boxes nobody sealed, in the peer's name"),
    _attack("node", "plain_text", "not_ours", "messages without encryption"),
    _attack("node", "no_messages", "malformed", "payloads that are no NKN messages"),
    _attack("node", "unknown_senders", "unknown_peer", "5,000 senders nobody knows"),
    _attack("node", "bad_frames", "bad_frames", "frames that do not parse"),
    _attack("node", "bomb", "bad_frames", "200 MB of zeros in 1 MB"),
    _attack("node", "actions", "ignored_actions", "actions that mean nothing"),
    _attack("node", "pings", "", "2,000 websocket pings: answered, not counted"),
    _attack("node", "oversized", "", "a frame above 4 MiB: the link is opened anew"),
    _attack("node", "hang_up", "", "the link closed: it is opened anew"),
    _attack("stranger", "unknown_key", "unknown_peer", "2,000 messages of a key nobody knows"),
    _attack("peer", "spoofed_sources", "spoofed_source", "others' addresses as source"),
    _attack("peer", "mapped_sources", "spoofed_source", "IPv4-mapped sources"),
    _attack("peer", "no_packets", "bad_packet", "noise in place of packets"),
    _attack("peer", "bad_offload", "bad_offload_header", "virtio headers that lie"),
    _attack("peer", "bad_records", "bad_record", "records longer than their batch"),
    _attack("peer", "forbidden", "refused", "connections to what is not allowed"),
    _attack("peer", "tiny_packets", "queue_full", "180,000 packets in 24 batches"),
    _attack("peer", "link_changes", "", "6,000 changes of its links in a batch"),
    _attack("peer", "ping_flood", "", "20,000 pings in a batch: one is answered"),
    _attack("peer", "big_garbage", "not_authentic", "30 MB that do not authenticate"),
    _attack("peer", "no_session", "no_session", "keys that were never agreed"),
    _attack("peer", "wrong_version", "wrong_version", "frames of other versions"),
    _attack("peer", "handshake_flood", "handshake_flood", "500 handshakes at once"),
    _attack("peer", "other_key", "handshake_refused", "a handshake under another key"),
)
