from __future__ import annotations

from dataclasses import replace

import pytest

from nconnect.cli.render import problems_of, status_text
from nconnect.control.schema import (
    DirectHere,
    DirectStatus,
    LinkStatus,
    MappedRoute,
    OfferedServerStatus,
    OffersStatus,
    PausedStatus,
    PeerStatus,
    SkippedRoute,
)
from nconnect.offers.accept import NOT_OFFERED
from tests.control.fake import KEY, STATUS

NOW = 1_790_000_045.0

EXPECTED = f"""\
nc0 is running for 17 min: 1 problem
  ! route 192.168.1.0/24 is not set: it is this machine's own network

addresses   10.86.0.1/24
NKN address gpu-box.{KEY}
public key  {KEY}
routes      10.86.0.2/32, 10.86.0.3/32

LINK  NODE               STATE  ROUND TRIP  RECONNECTS
0     203.0.113.7:30002  up        0.53 ms           0

PEER    STATE  PATH  HANDSHAKE  ROUND TRIP  RECEIVED     SENT  ALLOWED IPS
laptop  up     node  45 s ago        12 ms   1.5 KiB  4.8 MiB  10.86.0.2/32
phone   never  -     never               -       0 B      0 B  10.86.0.3/32
  laptop may reach 192.168.50.10:8000/tcp, expires 2026-12-31 00:00 UTC

dropped: unknown_peer 2
dropped of laptop: spoofed_source 3"""


def test_the_whole() -> None:
    assert status_text(STATUS, now=NOW) == EXPECTED


def test_a_narrow_terminal_has_the_prefixes_below_the_table() -> None:
    laptop, phone = STATUS.peers
    prefixes = ("10.194.130.1/32", "fd61:3a4a:54e0::1/128", *(f"192.168.{n}.0/24" for n in range(4)))
    status = replace(STATUS, peers=(replace(laptop, allowed_ips=prefixes), phone))
    assert ", ".join(prefixes) in status_text(status, now=NOW)
    lines = status_text(status, now=NOW, width=80).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("PEER"))
    assert lines[start : start + 6] == [
        "PEER    STATE  PATH  HANDSHAKE  ROUND TRIP  RECEIVED     SENT",
        "laptop  up     node  45 s ago        12 ms   1.5 KiB  4.8 MiB",
        "phone   never  -     never               -       0 B      0 B",
        "  laptop has 10.194.130.1/32, fd61:3a4a:54e0::1/128, 192.168.0.0/24,",
        "  192.168.1.0/24, 192.168.2.0/24, 192.168.3.0/24",
        "  phone has 10.86.0.3/32",
    ]
    assert status_text(STATUS, now=NOW, width=80) == EXPECTED


def test_what_this_device_has_for_direct_paths() -> None:
    def said(direct: DirectHere) -> list[str]:
        lines = status_text(replace(STATUS, direct=direct), now=NOW).splitlines()
        return lines[7 : lines.index("", 7)]

    assert said(DirectHere()) == []
    shut = "ufw drops what comes to TCP port 41641"
    seen = ("203.0.113.5:4000",)
    assert said(DirectHere(41641, "easy", seen, ("203.0.113.5:41641",), "", (shut,))) == [
        "direct      port 41641, easy NAT, seen as 203.0.113.5:4000, mapped at 203.0.113.5:41641",
        f"            {shut}",
    ]
    silent = "the router does not answer by UPnP"
    assert said(DirectHere(41641, "easy", seen, (), silent)) == [
        "direct      port 41641, easy NAT, seen as 203.0.113.5:4000"
    ]
    assert said(DirectHere(41641, "hard", seen, (), silent)) == [
        "direct      port 41641, hard NAT, seen as 203.0.113.5:4000",
        f"            the router maps no port: {silent}",
    ]
    assert said(DirectHere(41641, "blocked")) == ["direct      port 41641, UDP is blocked here"]


def test_nothing_is_wrong_and_nobody_there() -> None:
    status = replace(STATUS, peers=(), skipped_routes=(), drops={}, routes=())
    text = status_text(status, now=NOW)
    assert text.startswith("nc0 is running for 17 min\n")
    assert "PEER" not in text
    assert "dropped" not in text
    assert "routes      none" in text


def test_colours_change_nothing_but_the_colour() -> None:
    import re

    text = status_text(STATUS, now=NOW, colour=True)
    assert "\x1b[32mup\x1b[0m" in text
    assert re.sub(r"\x1b\[\d+m", "", text) == EXPECTED


def test_rates() -> None:
    text = status_text(STATUS, now=NOW, rates={"laptop": (2048.0, 10.0)})
    assert "1.5 KiB (2.0 KiB/s)" in text
    assert "4.8 MiB (10 B/s)" in text


def peer(state: str, expires: float | None = None) -> PeerStatus:
    return PeerStatus("laptop", f"laptop.{KEY}", ("10.86.0.2/32",), None, state, expires=expires)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (LinkStatus("", "connecting"), "link 0 to no node yet is connecting"),
        (LinkStatus("n:1", "down", why="refused"), "is down, trying again: refused; `nconnect doctor` looks"),
        (peer("handshaking"), "`nconnect peer list` whether it knows this device"),
        (peer("stale"), "peer laptop has gone silent: `nconnect ping laptop`"),
        (replace(peer("stale"), has_left=True), "peer laptop was stopped on its side"),
        (peer("expired", NOW - 1), "`nconnect peer set laptop --access never`"),
    ],
)
def test_problems(what: LinkStatus | PeerStatus, says: str) -> None:
    quiet = replace(STATUS, peers=(), skipped_routes=())
    assert problems_of(quiet) == []
    status = replace(quiet, links=(what,)) if isinstance(what, LinkStatus) else replace(quiet, peers=(what,))
    (problem,) = problems_of(status)
    assert says in problem


@pytest.mark.parametrize(
    ("direct", "path", "says"),
    [
        (
            DirectStatus("up", "udp", "198.51.100.7:1", "[2001:db8::9]:41000", 12.3, 1452),
            "direct",
            "  laptop is reached directly at [2001:db8::9]:41000 (udp, 12 ms)",
        ),
        (
            DirectStatus("failed", why="UDP is blocked here"),
            "node",
            "  laptop is reached by a node: UDP is blocked here",
        ),
        (DirectStatus("search"), "node", "  laptop is reached by a node; a direct path is looked for"),
    ],
)
def test_the_direct_path_or_why_there_is_none(direct: DirectStatus, path: str, says: str) -> None:
    one = replace(peer("up"), path=path, direct=direct)
    lines = status_text(replace(STATUS, peers=(one,)), now=NOW).splitlines()
    assert says in lines
    assert any(line.startswith(f"laptop  up     {path}") for line in lines)


def test_where_no_direct_path_is_looked_for_there_is_no_line() -> None:
    one = replace(peer("up"), direct=DirectStatus("off", why="idle"))
    assert "reached" not in status_text(replace(STATUS, peers=(one,)), now=NOW)


def test_the_daemons_own_problems_come_first() -> None:
    status = replace(STATUS, problems=("the clock is far off",))
    assert problems_of(status)[0] == "the clock is far off"


@pytest.mark.parametrize("count", [1, 2])
def test_a_lost_link_is_said_once(count: int) -> None:
    links = tuple(LinkStatus(f"n:{i}", "down", why=f"refused {i}") for i in range(count))
    status = replace(
        STATUS, peers=(), skipped_routes=(), links=links, problems=("no link to a node: refused 0", "x")
    )
    first, *lost = problems_of(status)
    assert first == "x"
    assert [line.partition(";")[0] for line in lost] == [
        f"link {i} to n:{i} is down, trying again: refused {i}" for i in range(count)
    ]


@pytest.mark.parametrize("calm", [peer("up"), peer("never"), peer("up", NOW + 60)])
def test_no_problem(calm: PeerStatus) -> None:
    assert problems_of(replace(STATUS, peers=(calm,), skipped_routes=())) == []


def test_what_stops_all_links_is_said_once() -> None:
    why = "this network shows a login page: open http://portal/ in a browser"
    links = tuple(LinkStatus("", "down", why=why) for _ in range(4))
    status = replace(
        STATUS, peers=(), skipped_routes=(), links=links, problems=(f"no link to a node: {why}",)
    )
    (line,) = problems_of(status)
    assert line.startswith(f"link 0 to no node yet is down, trying again: {why};")


def test_a_link_with_tls_is_shown() -> None:
    status = replace(STATUS, links=(LinkStatus("node.example:443", "up", 0.5, tls=True, port=443),))
    assert "node.example:443 (TLS)  " in status_text(status, now=NOW)
    assert "TLS" not in status_text(replace(STATUS, links=(LinkStatus("n:1", "up", 0.5),)), now=NOW)


def test_a_link_s_proxy_is_shown() -> None:
    status = replace(STATUS, links=(LinkStatus("203.0.113.7:30002", "up", 0.5, proxy="10.0.0.1:3128"),))
    assert "203.0.113.7:30002 by proxy 10.0.0.1:3128" in status_text(status, now=NOW)


def test_who_is_paused_and_by_whom() -> None:
    laptop = STATUS.peers[0]
    ours = replace(STATUS, peers=(replace(laptop, paused=PausedStatus("back at 22:00", "self")),))
    assert "\n  laptop is paused: back at 22:00\n" in status_text(ours, now=NOW)
    assert not [p for p in problems_of(ours) if "laptop" in p]
    theirs = replace(STATUS, peers=(replace(laptop, paused=PausedStatus("", "peer")),))
    assert "peer laptop refuses this device's connections for now" in problems_of(theirs)


def test_when_a_peer_that_is_away_was_last_here() -> None:
    away = replace(STATUS.peers[0], state="stale", last_seen_at=NOW - 7200)
    text = status_text(replace(STATUS, peers=(away,)), now=NOW)
    assert "\n  laptop was last here 2 h 0 min ago, 2026-09-21 " in text
    here = replace(away, state="up")
    assert "last here" not in status_text(replace(STATUS, peers=(here,)), now=NOW)


def test_it_says_where_a_network_is_mapped_and_what_waits() -> None:
    one = replace(
        STATUS.peers[0],
        mapped=(MappedRoute("192.168.1.0/24", "10.200.9.0/24"),),
        waiting=(SkippedRoute("8.8.8.0/24", "it is not private"),),
    )
    lines = status_text(replace(STATUS, peers=(one,)), now=NOW).splitlines()
    assert "  laptop has 192.168.1.0/24, which is 10.200.9.0/24 here" in lines
    assert "  laptop offers 8.8.8.0/24, which is not routed: it is not private" in lines
    command = "nconnect peer set laptop --accept-routes 10.86.0.2/32,8.8.8.0/24"
    assert f"  laptop has all of that routed by `{command}`" in lines


def test_it_says_what_the_file_has_and_the_provider_does_not_offer() -> None:
    one = replace(STATUS.peers[0], waiting=(SkippedRoute("10.20.0.0/24", NOT_OFFERED),))
    text = status_text(replace(STATUS, peers=(one,)), now=NOW)
    assert "laptop has 10.20.0.0/24 in the file, which is not routed: the provider does not offer it" in text
    assert "--accept-routes" not in text, "that would not help"


@pytest.mark.parametrize(
    ("allowed", "says"),
    [
        ([True], "offers 1 server: `nconnect offers`"),
        ([True, False], "offers 2 servers, of which 1 can be used now: `nconnect offers`"),
        ([False, False], "offers 2 servers, of which none can be used now: `nconnect offers`"),
    ],
)
def test_it_says_how_many_servers_are_offered(allowed: list[bool], says: str) -> None:
    servers = tuple(
        OfferedServerStatus(f"s{n}", "http://10.86.0.1", allowed=a) for n, a in enumerate(allowed)
    )
    one = replace(STATUS.peers[0], offers=OffersStatus(servers=servers))
    assert f"  laptop {says}" in status_text(replace(STATUS, peers=(one,)), now=NOW).splitlines()
    assert "offers" not in status_text(replace(STATUS, peers=STATUS.peers[:1]), now=NOW)


def test_it_says_what_may_be_reached_where_that_is_not_all() -> None:
    for allow, says in ((("192.168.50.10:8000/tcp",), "192.168.50.10:8000/tcp"), ((), "nothing")):
        one = replace(STATUS.peers[0], offers=OffersStatus(allow=allow))
        lines = status_text(replace(STATUS, peers=(one,)), now=NOW).splitlines()
        assert f"  laptop lets this device reach {says}" in lines
    assert "lets this device" not in status_text(STATUS, now=NOW)


def test_many_that_wait_are_counted() -> None:
    waiting = tuple(SkippedRoute(f"8.8.{n}.0/24", "it is not private") for n in range(256))
    one = replace(STATUS.peers[0], waiting=waiting)
    lines = [
        line for line in status_text(replace(STATUS, peers=(one,)), now=NOW).splitlines() if "8.8" in line
    ]
    assert len(lines) == 8
    text = status_text(replace(STATUS, peers=(one,)), now=NOW)
    assert "offers 248 more that are not routed" in text
    assert "`nconnect peer set laptop --accept-routes all`" in text
