"""Removes every secret, and known addresses, from a text that will be shown to others.

Secrets are seeds and preshared keys, invitations, passwords in URLs, and logins of proxies. There are three
nets: known secret values in every form in which they may be written; the configuration's keys whose values
are secret; and everything that looks like a key (64 hex digits, or 32 bytes in base64) and is not known to
be public. Addresses say where somebody lives: those that others see of this device, and of its peers on
direct paths. Addresses of nodes, servers and inner networks stay, because most problems are about them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

from nconnect.doctor.facts import Facts
from nconnect.model import Address
from nconnect.nat.port_mapping import is_inner

REMOVED = "(removed)"

_KEYS = "seed|preshared_key|private_key|secret|password|passphrase|psk"
_ASSIGNED = re.compile(rf'(?im)^(\s*["\']?(?:{_KEYS})["\']?\s*[=:]\s*)(?!\(removed\)).+$')
_JSON = re.compile(rf'(?i)("(?:{_KEYS})"\s*:\s*)"(?:[^"\\]|\\.)*"')
_TOKEN = re.compile(r"(?i)\bnc1[-\s]?[0-9a-z][0-9a-z-]{15,}")
_LOGIN = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/\"']+@")
# A proxy's URL may be mistyped, with a password that no URL can hold: all of the line before the last "@".
_PROXY = re.compile(r"(?im)^(.*\b(?:\w+_)?proxy[\"']?\s*[=:]\s*[\"']?(?:[a-z0-9+.-]+://)?).*@")
MIN_WORD = 4  # a known word that is shorter stays: it would take half of the text with it
_QUERY = re.compile(r"(?i)([?&](?:token|key|auth|secret|password|sig)[^=\s&]*=)[^&\s\"']+")
_HEX = re.compile(r"(?i)(?<![0-9a-f])[0-9a-f]{48,}(?![0-9a-f])")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{42,43}={0,2}(?![A-Za-z0-9+/_=-])")


# As a whole: not 192.0.2.1 in 192.0.2.10, and with any port behind it.
_ADDRESS = {4: r"(?<![0-9.]){}(?![0-9]|\.[0-9])", 6: r"(?i)(?<![0-9a-f:]){}(?![0-9a-f:.])"}


_ULA = ip_network("fc00::/7")


def addresses_of(facts: Facts, status: Any) -> frozenset[Address]:
    """What others see of this device, and of its peers on direct paths. `status`: as JSON has it."""
    return frozenset(address for address in _addresses(facts, status) if not _is_local(address))


def _addresses(facts: Facts, status: Any) -> Iterator[Address]:
    yield from (nat.verdict.mapped.address for nat in facts.nats if nat.verdict.mapped is not None)
    if facts.router is not None and facts.router.outside is not None:
        yield facts.router.outside
    here = status.get("direct") or {}
    places = [*here.get("public", ()), *here.get("mapped", ())]
    for peer in status.get("peers", ()):
        direct = peer.get("direct") or {}
        places += [direct.get("local"), direct.get("remote")]
    for place in places:
        if place is not None:
            yield ip_address(place.rpartition(":")[0].strip("[]"))


def _is_local(address: Address) -> bool:
    inner = is_inner(address) or (address.version == 6 and address in _ULA)
    return inner or address.is_loopback or address.is_link_local


def redact(
    text: str,
    *,
    secrets: Collection[bytes] = (),
    public: Collection[bytes] = (),
    words: Collection[str] = (),
    addresses: Collection[Address] = (),
) -> str:
    """The text without secrets and without these addresses.

    `secrets` are known ones (raw bytes), `words` known ones as they are written, `public` keys that may stay.
    """
    for address in addresses:
        text = re.sub(_ADDRESS[address.version].format(re.escape(str(address))), REMOVED, text)
    for secret in sorted(secrets):
        for form in _forms(secret):
            text = re.sub(re.escape(form), REMOVED, text, flags=re.IGNORECASE)
    for word in sorted(words, key=lambda word: (-len(word), word)):
        if len(word) >= MIN_WORD:
            text = text.replace(word, REMOVED)
    text = _PROXY.sub(rf"\1{REMOVED}@", text)
    text = _ASSIGNED.sub(rf"\1{REMOVED}", text)
    text = _JSON.sub(rf'\1"{REMOVED}"', text)
    text = _TOKEN.sub(REMOVED, text)
    text = _LOGIN.sub(rf"\1{REMOVED}@", text)
    text = _QUERY.sub(rf"\1{REMOVED}", text)
    shown = {key.hex() for key in public}
    text = _HEX.sub(lambda found: found[0] if found[0].lower() in shown else REMOVED, text)
    return _BASE64.sub(lambda found: REMOVED if _is_key(found[0]) else found[0], text)


def _forms(secret: bytes) -> tuple[str, ...]:
    standard = base64.b64encode(secret).decode()
    url = base64.urlsafe_b64encode(secret).decode()
    spaced = " ".join(f"{byte:02x}" for byte in secret)
    colons = ":".join(f"{byte:02x}" for byte in secret)
    escaped = "".join(f"\\x{byte:02x}" for byte in secret)
    forms = {secret.hex(), standard, url, standard.rstrip("="), url.rstrip("="), spaced, colons, escaped}
    forms.add(repr(secret)[2:-1])
    return tuple(sorted((form for form in forms if len(form) >= 8), key=len, reverse=True))


def _is_key(text: str) -> bool:
    """Whether it is base64 of exactly 32 bytes, with the mix of characters that random bytes have."""
    core = text.rstrip("=")
    if len(core) != 43:
        return False
    return len(set(core)) > 12 and any(c.isdigit() for c in core) and core.lower() != core
