"""The settings of a node, and what follows from them."""

from __future__ import annotations

from nconnect.daemon.node import settings_of
from nconnect.model import MIN_QUEUE_MB, NodeConfig
from nconnect.node.settings import NodeSettings
from nconnect.wire.nkn import MAX_MESSAGE_BYTES

MB = 1 << 20


def test_memory_for_those_who_do_not_read_stays_under_64_mb() -> None:
    """docs/node.md has the same sum."""
    settings = NodeSettings()
    challenged = settings.max_logins * (18 << 10)
    assert settings.node_queue_bytes + settings.holding_bytes + challenged + 6 * MB <= 64_000_000


def test_memory_can_be_set() -> None:
    config = NodeConfig.of(
        "::", port=None, ws_port=None, rpc_port=None, connections_per_address=200, queue_mb=48, mail_mb=30
    )
    settings = settings_of(config)
    assert (settings.node_queue_bytes, settings.client_queue_bytes) == (48 * MB, 16 * MB)
    assert (settings.holding_bytes, settings.client_holding_bytes) == (30 * MB, 10 * MB)
    assert settings.source_share == 200
    assert NodeSettings().with_memory(24, 12) == NodeSettings(), "as by default"


def test_the_largest_message_fits_the_smallest_queue_and_the_usual_mailbox() -> None:
    assert NodeSettings().with_memory(MIN_QUEUE_MB, None).client_queue_bytes > MAX_MESSAGE_BYTES
    assert NodeSettings().client_holding_bytes > MAX_MESSAGE_BYTES


def test_without_rate_limits_all_may_log_in_at_once() -> None:
    settings = NodeSettings().with_rate(0)
    assert settings.max_logins == settings.max_connections == settings.source_share
