from __future__ import annotations

from nconnect.host.plan import plan
from nconnect.io.system.no_network import NoHost
from tests.host.examples import PROVIDER, USER


def test_no_route_is_told_as_skipped_where_there_is_no_interface() -> None:
    facts = NoHost("nc0").read_facts()
    for config in (USER, PROVIDER):
        made = plan(config, facts)
        assert made.skipped_routes == ()
        assert made.warnings == ()
