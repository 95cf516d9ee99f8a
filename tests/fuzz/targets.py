"""What is fuzzed: each target takes any bytes, and may raise nothing.

The parsers' targets take the fuzzer's bytes as they are, and then once more as choices (`draw`) of which
something nearly right is made: lengths, checksums and whole JSON texts that random bytes do not hit. What is
read is compared with a second opinion (`oracles`). A parser's own error is caught in the target; whatever
else it raises is a finding, and so is an answer that differs, or a machine that does not work any more.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import (
    frames,
    ncp,
    official,
    packets,
    proxies,
    routers,
    services,
    session_streams,
    sessions,
    statements,
    streams,
    stun,
    values,
    wire,
)  # fmt: skip

Target = Callable[[bytes], None]
PARSERS: tuple[Target, ...] = (
    wire.protobuf_fields, wire.nkn_frames, wire.nkn_payloads, wire.nkn_actions, wire.json_text, wire.rpc,
    wire.node_addresses, ncp.ncp_packets, official.official_requests, official.official_targets,
    official.shadow_streams,
    frames.websocket_frames, frames.websocket_upgrades, frames.handshake_frames,
    frames.direct_records, frames.data_frames, frames.batches, frames.fragments,
    packets.packets, packets.super_packets,
    values.invitations, values.tokens, values.invitation_books, values.configurations,
    values.conntrack_messages, values.netlink_attributes, stun.stun_messages, routers.port_answers,
    routers.upnp_documents, statements.statement_documents,
    proxies.proxy_requests, proxies.proxy_datagrams, session_streams.stream_frames,
)  # fmt: skip
MACHINES: tuple[Target, ...] = (
    sessions.handshake_machine, sessions.session_machine, sessions.message_machine, sessions.replay_windows,
    sessions.noise_messages, services.node_machine, services.link_machine, services.control_machine,
    services.invitation_machine, streams.stream_opening, stun.stun_probe, stun.stun_server,
    routers.port_mapper, routers.upnp_mapper, ncp.ncp_sessions,
    statements.statement_parts, statements.statement_transfer, session_streams.stream_machine,
)  # fmt: skip
TARGETS: dict[str, Target] = {target.__name__: target for target in (*PARSERS, *MACHINES)}
