"""The table of a link's states (what the link makes of it: test_link.py)."""

from __future__ import annotations

from nconnect.nkn.states import LINK_TRANSITIONS, LinkState, LinkTrigger


def test_every_state_can_be_left_and_reached() -> None:
    assert set(LINK_TRANSITIONS) == set(LinkState)
    reached = {state for row in LINK_TRANSITIONS.values() for state in row.values()}
    assert reached == set(LinkState) - {LinkState.NEW}
    assert {state.word for state in LinkState} == {"connecting", "up", "down"}


def test_every_state_can_be_stopped_and_only_a_login_leads_up() -> None:
    for state, row in LINK_TRANSITIONS.items():
        assert row[LinkTrigger.STOP] is LinkState.CLOSED
        assert {event for event, to in row.items() if to is LinkState.UP} == (
            {LinkTrigger.ACCEPTED} if state is LinkState.LOGGING_IN else set()
        )
