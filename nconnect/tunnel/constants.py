"""The numbers of the tunnel protocol: from the specification, measured, or guessed."""

from __future__ import annotations

from nconnect.wire.tunnel import MAX_PACKET_BODY_BYTES, RECORD_HEADER_BYTES

# From WireGuard's protocol (section 6.1 of its paper), whose session rules ours are.
REKEY_AFTER_S = 120.0
REJECT_AFTER_S = 180.0
REKEY_AFTER_MESSAGES = 1 << 60
REJECT_AFTER_MESSAGES = (1 << 64) - (1 << 13) - 1
REKEY_ATTEMPT_S = 90.0  # then packets that wait for a handshake are dropped
KEEPALIVE_S = 10.0  # we owe a sign of life this long after data arrived, when nothing else was sent
REKEY_TIMEOUT_S = 5.0
UNANSWERED_S = KEEPALIVE_S + REKEY_TIMEOUT_S  # data sent, nothing heard: the session is in doubt
REKEY_AFTER_RECEIVE_S = REJECT_AFTER_S - UNANSWERED_S  # the initiator renews before its keys end
MIN_INITIATION_INTERVAL_S = 0.05  # 20 a second from one peer

MAX_REFUSED_HANDSHAKES_PER_S = 20  # of one peer: reading one costs 0.14 ms of public-key work

# Ours, from the specification in docs/protocol.md.
REPLAY_WINDOW = 8192  # several links, and nodes that displace messages by hundreds (NKN.md)
HANDSHAKE_RETRY_S = (0.5, 1.0, 2.0, 5.0)  # the last one repeats; relays lose less than UDP, so start early
HANDSHAKE_JITTER_S = 0.333
PERSISTENT_RETRY_S = 15.0  # a peer that we want to keep is tried again this long after giving up

# Measured.
BATCH_BYTES = 256 << 10  # 64 KiB: 0.8 of the rate; 512 KiB: no better, and more delay

# A batch ends with the packet that reaches BATCH_BYTES.
MAX_BATCH_BYTES = BATCH_BYTES + RECORD_HEADER_BYTES + MAX_PACKET_BODY_BYTES

# After an outage of link or session, of what waited:
STALE_S = 3.0  # older is sent only if it is the newest of its flow; a restarted node is back in one second
ASK_S = 1.0  # guessed: after a link's return a peer that has not answered for so long gets a handshake
DEAD_S = 130.0  # older is not sent at all: TCP tries again at least every 120 s (RFC 6298's bound on Linux)

RETURN_S = 5.0  # guessed: a daemon that restarts is back by then; until then open connections wait for it

# Guessed. Far below UNANSWERED_S: a TCP whose tries are lost waits for as much again.
QUESTION_S = 3.0  # data sent, nothing heard: ask
ANSWER_S = 3.0  # without an answer, or four round trips if that is longer, the session is in doubt
PERSISTENT_KEEPALIVE_S = 25.0  # what WireGuard's documentation recommends behind NAT
QUEUE_BYTES = 8 << 20  # per peer: a receive window of Linux's default maximum (6 MiB), and some
MAX_PENDING_SENDERS = 1024  # guessed; 0.5 MB
PENDING_SILENT_S = 600.0  # guessed: a device that still wants to come in tries every few seconds
MAX_HANDSHAKE_BYTES = 4096  # of a boxed handshake frame, which has about 300: room for later versions
