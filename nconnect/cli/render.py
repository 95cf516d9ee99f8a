"""A `Status` as text: problems first, then the interface, its links, peers and routes."""

from __future__ import annotations

from collections.abc import Mapping

from nconnect.cli.output import bytes_text, duration_text, fits, indented, ms_text, table, time_text
from nconnect.control.schema import DirectHere, LinkStatus, PeerStatus, Status
from nconnect.errors import NO_LINK
from nconnect.offers.accept import NOT_OFFERED

_GREEN, _YELLOW, _RED, _BOLD, _RESET = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[1m", "\x1b[0m"
_COLOUR_OF = {
    "up": _GREEN,
    "connecting": _YELLOW,
    "handshaking": _YELLOW,
    "stale": _YELLOW,
    "down": _RED,
    "expired": _RED,
}

_MAX_WAITING = 8  # prefixes that are named for each peer

Rates = Mapping[str, tuple[float, float]]  # by peer: bytes received and sent a second


def status_text(
    status: Status,
    *,
    now: float,
    colour: bool = False,
    rates: Rates | None = None,
    width: int | None = None,
) -> str:
    """The whole state for a person. `now` is the wall clock's time. `rates`: also show current rates.

    `width`: the terminal's; what is too wide for the table of peers is below it then.
    """
    problems = problems_of(status)
    lines = [_headline(status, len(problems), now)]
    lines += [f"  ! {problem}" for problem in problems]
    lines += ["", *_facts(status), "", *_links(status)]
    if status.peers:
        lines += ["", *_peers(status, now, rates, width)]
    lines += _drops(status)
    return "\n".join(_paint(line) for line in lines) if colour else "\n".join(lines)


def problems_of(status: Status) -> list[str]:
    """The problems, a sentence each, with what to do if that is known; the daemon's sentences first."""
    # With no link up each has a line of its own below, which says more.
    found = [problem for problem in status.problems if not problem.startswith(NO_LINK)]
    said: set[str] = set()
    for index, link in enumerate(status.links):
        if link.state != "up" and link.shared_with is None and link.why not in said:
            said.update(filter(None, [link.why]))  # report a common cause of all links once
            why = f": {link.why}" if link.why else ""
            what = "is connecting" if link.state == "connecting" else "is down, trying again"
            mend = "; `nconnect doctor` looks at the way to it" if link.state == "down" else ""
            found.append(f"link {index} to {link.node or 'no node yet'} {what}{why}{mend}")
    for peer in status.peers:
        if problem := _peer_problem(peer):
            found.append(f"peer {peer.name} {problem}")
    found += [f"route {skipped.route} is not set: {skipped.why}" for skipped in status.skipped_routes]
    return found


def _peer_problem(peer: PeerStatus) -> str | None:
    if peer.has_left:
        return "was stopped on its side: connections are refused until `nconnect up` runs there"
    if peer.paused is not None and peer.paused.by == "peer":
        why = f": {peer.paused.why}" if peer.paused.why else ""
        return f"refuses this device's connections for now{why}"
    match peer.state:
        case "expired":
            return f"may not pass any more: `nconnect peer set {peer.name} --access never` lets it in again"
        case "handshaking":
            return (
                "does not answer yet: on the other side, `nconnect status` says whether it is up, and"
                " `nconnect peer list` whether it knows this device's address"
            )
        case "stale":
            return f"has gone silent: `nconnect ping {peer.name}` asks it; its side has `nconnect status` too"
    return None


def _headline(status: Status, problems: int, now: float) -> str:
    trouble = f": {problems} problem{'s' if problems > 1 else ''}" if problems else ""
    since = f" for {duration_text(now - status.started_at)}" if status.started_at is not None else ""
    return f"{status.interface} is running{since}{trouble}"


def _facts(status: Status) -> list[str]:
    facts = {
        "addresses": ", ".join(status.addresses),
        "NKN address": status.address,
        "public key": status.public_key,
        "routes": ", ".join(status.routes) or "none",
        "direct": _direct_here(status.direct),
    }
    lines = [f"{name:<11} {value}" for name, value in facts.items() if value]
    direct = status.direct
    notes = (
        [f"the router maps no port: {direct.unmapped}"] if direct.nat == "hard" and direct.unmapped else []
    )
    return lines + [f"{'':<11} {note}" for note in (*notes, *direct.refused)]


def _direct_here(direct: DirectHere) -> str:
    """What this device has for direct paths; "" while they are off."""
    if direct.port is None:
        return ""
    nat = {"unknown": "", "none": "no NAT", "blocked": "UDP is blocked here"}.get(
        direct.nat, f"{direct.nat} NAT"
    )
    seen = f"seen as {', '.join(direct.public)}" if direct.public else ""
    mapped = f"mapped at {', '.join(direct.mapped)}" if direct.mapped else ""
    return ", ".join(filter(None, (f"port {direct.port}", nat, seen, mapped)))


def _node_of(link: LinkStatus) -> str:
    tls = " (TLS)" if link.tls else ""
    by = f" by proxy {link.proxy}" if link.proxy else ""
    return f"{link.node or '-'}{tls}{by}"


def _links(status: Status) -> list[str]:
    header = ["LINK", "NODE", "STATE", "ROUND TRIP", "RECONNECTS"]
    rows = [
        [str(i), _node_of(link), link.state, ms_text(link.rtt_ms), str(link.reconnects)]
        for i, link in enumerate(status.links)
    ]
    if len(rows) > 1:
        header.append("SHARE")
        for row, link in zip(rows, status.links, strict=True):
            if link.shared_with is not None:
                row[2] = f"as link {link.shared_with}"
            row.append("-" if link.share is None else f"{link.share:.0%}")
    return table(header, rows, right=(3, 4, 5))


def _peers(status: Status, now: float, rates: Rates | None, width: int | None) -> list[str]:
    header = ["PEER", "STATE", "PATH", "HANDSHAKE", "ROUND TRIP", "RECEIVED", "SENT", "ALLOWED IPS"]
    rows = []
    for peer in status.peers:
        row = [
            peer.name,
            peer.state,
            peer.path if peer.state == "up" else "-",
            _handshake(peer, now),
            ms_text(peer.rtt_ms),
            bytes_text(peer.rx_bytes),
            bytes_text(peer.tx_bytes),
            ", ".join(peer.allowed_ips),
        ]
        if rates is not None:
            rx, tx = rates.get(peer.name, (0.0, 0.0))
            row[5] += f" ({bytes_text(rx)}/s)"
            row[6] += f" ({bytes_text(tx)}/s)"
        rows.append(row)
    lines = table(header, rows, right=(4, 5, 6))
    is_wide = not fits(lines, width)
    if is_wide:
        lines = table(header[:-1], [row[:-1] for row in rows], right=(4, 5, 6))
    for peer in status.peers:
        if is_wide:
            lines += indented(f"{peer.name} has {', '.join(peer.allowed_ips)}", width or 80)
        said = (
            _direct(peer),
            _paused(peer),
            _last_here(peer, now),
            _offers(peer),
            _lets(peer),
            *_routes_of(peer),
        )
        lines += [f"  {peer.name} {each}" for each in said if each]
    limited = [p for p in status.peers if p.allow is not None or p.expires is not None]
    for peer in limited:
        allow = "all" if peer.allow is None else ", ".join(peer.allow) or "nothing"
        expires = f", expires {time_text(peer.expires)}" if peer.expires is not None else ""
        lines.append(f"  {peer.name} may reach {allow}{expires}")
    return lines


def _direct(peer: PeerStatus) -> str:
    """The direct path, or why there is none; "" where none is looked for."""
    direct = peer.direct
    match direct.state:
        case "up":
            return f"is reached directly at {direct.remote} ({direct.kind}, {ms_text(direct.rtt_ms)})"
        case "search":
            return "is reached by a node; a direct path is looked for"
        case "failed":
            return f"is reached by a node: {direct.why}"
    return ""


def _offers(peer: PeerStatus) -> str:
    """How many servers it offers by name; "" if none."""
    servers = peer.offers.servers
    if not servers:
        return ""
    usable = sum(server.allowed for server in servers)
    many = f"{len(servers)} server{'s' if len(servers) > 1 else ''}"
    part = "" if usable == len(servers) else f", of which {usable or 'none'} can be used now"
    return f"offers {many}{part}: `nconnect offers`"


def _lets(peer: PeerStatus) -> str:
    """What of its networks this device may reach, where that is not all."""
    allow = peer.offers.allow
    return "" if allow is None else f"lets this device reach {', '.join(allow) or 'nothing'}"


def _routes_of(peer: PeerStatus) -> list[str]:
    """Its networks that have other addresses here, and what it offers in vain."""
    found = [f"has {pair.real}, which is {pair.seen} here" for pair in peer.mapped]
    offers = [each for each in peer.waiting if each.why != NOT_OFFERED]
    found += [
        f"has {each.route} in the file, which is not routed: {each.why}"
        for each in peer.waiting
        if each.why == NOT_OFFERED
    ]
    named = offers[:_MAX_WAITING]
    found += [f"offers {each.route}, which is not routed: {each.why}" for each in named]
    if more := offers[_MAX_WAITING:]:
        found.append(f"offers {len(more)} more that are not routed: `nconnect status --json` has them")
    if offers:  # the list is all that is accepted then
        wanted = "all" if more else ",".join((*peer.allowed_ips, *(each.route for each in named)))
        found.append(f"has all of that routed by `nconnect peer set {peer.name} --accept-routes {wanted}`")
    return found


def _paused(peer: PeerStatus) -> str:
    """That this side refuses its connections; "" where it does not."""
    if peer.paused is None or peer.paused.by == "peer":
        return ""
    return f"is paused{f': {peer.paused.why}' if peer.paused.why else ''}"


def _last_here(peer: PeerStatus, now: float) -> str:
    """When it was last heard, of a peer that is away."""
    if peer.last_seen_at is None or peer.state == "up":
        return ""
    return f"was last here {duration_text(now - peer.last_seen_at)} ago, {time_text(peer.last_seen_at)}"


def _handshake(peer: PeerStatus, now: float) -> str:
    if peer.handshake_age_s is not None:
        return f"{duration_text(peer.handshake_age_s)} ago"
    if peer.last_handshake_at is not None:
        return f"{duration_text(now - peer.last_handshake_at)} ago"
    return "never"


def _drops(status: Status) -> list[str]:
    owners: list[tuple[str, Mapping[str, int]]] = [("", status.drops)]
    owners += [(f" of {peer.name}", peer.drops) for peer in status.peers]
    lines = []
    for owner, drops in owners:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items()) if count)
        if counts:
            lines.append(f"dropped{owner}: {counts}")
    return ["", *lines] if lines else []


def _paint(line: str) -> str:
    """Colour a line for a terminal: headers bold, problems yellow, states by their word."""
    if line.startswith("  ! "):
        return f"{_YELLOW}{line}{_RESET}"
    if line.startswith(("LINK ", "PEER ")):
        return f"{_BOLD}{line}{_RESET}"
    for state, colour in _COLOUR_OF.items():
        before, found, after = line.partition(f"  {state} ")
        if found:
            return f"{before}  {colour}{state}{_RESET} {after}"
    return line
