"""What the targets of iptables do with a packet (iptables-extensions(8)). nft lists them by name, too."""

from __future__ import annotations

from nconnect.doctor.netfilter import Verdict

MARKS = frozenset({"MARK", "CONNMARK", "HMARK"})  # they may set the packet's mark
# These only count, log or label.
_HARMLESS = MARKS | {
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "CT", "DSCP", "ECN", "HL", "IDLETIMER", "LED", "LOG",
    "NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL",
    "ULOG",
}  # fmt: skip
_VERDICTS = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.DROP,
    "TARPIT": Verdict.DROP,
    "RETURN": Verdict.RETURN,
    "DNAT": Verdict.ALTER,
    "REDIRECT": Verdict.ALTER,
    "NETMAP": Verdict.ALTER,
    "TPROXY": Verdict.ALTER,
    "SNAT": Verdict.ACCEPT,
    "MASQUERADE": Verdict.ACCEPT,
}


def verdict_of(target: str) -> Verdict:
    """Of a target that is no chain; unclear where it is not known."""
    return Verdict.NONE if target in _HARMLESS else _VERDICTS.get(target, Verdict.UNCLEAR)
