"""What the targets of iptables do with a packet (iptables-extensions(8)). nft lists them by name, too."""

from __future__ import annotations

from nconnect.doctor.netfilter import RuleVerdict

MARKS = frozenset({"MARK", "CONNMARK", "HMARK"})  # they may set the packet's mark
# These only count, log or label.
_HARMLESS = MARKS | {
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "CT", "DSCP", "ECN", "HL", "IDLETIMER", "LED", "LOG",
    "NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL",
    "ULOG",
}  # fmt: skip
_VERDICTS = {
    "ACCEPT": RuleVerdict.ACCEPT,
    "DROP": RuleVerdict.DROP,
    "REJECT": RuleVerdict.DROP,
    "TARPIT": RuleVerdict.DROP,
    "RETURN": RuleVerdict.RETURN,
    "DNAT": RuleVerdict.ALTER,
    "REDIRECT": RuleVerdict.ALTER,
    "NETMAP": RuleVerdict.ALTER,
    "TPROXY": RuleVerdict.ALTER,
    "SNAT": RuleVerdict.ACCEPT,
    "MASQUERADE": RuleVerdict.ACCEPT,
}


def verdict_of(target: str) -> RuleVerdict:
    """Of a target that is no chain; unclear where it is not known."""
    return RuleVerdict.NONE if target in _HARMLESS else _VERDICTS.get(target, RuleVerdict.UNCLEAR)
