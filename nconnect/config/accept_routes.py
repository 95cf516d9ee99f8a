"""`accept_routes`: which prefixes that a provider names are routed without a person being asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from nconnect.config.private import is_private
from nconnect.config.table import string, strings
from nconnect.config.values import parse_prefixes, split_commas
from nconnect.errors import ConfigError
from nconnect.model import AcceptRoutes, AcceptWord, InterfaceAddress, Prefix

WORDS: tuple[AcceptWord, ...] = get_args(AcceptWord)
MAX_PREFIXES = 256  # an application with more would not fit into its frame
_FORM = '"private", "none", "all", or a list of prefixes'


def parse_accept_routes(text: str) -> AcceptRoutes:
    """An option's value: private, none, all, or PREFIX,…"""
    return next((word for word in WORDS if word == text.strip()), None) or _prefixes(split_commas([text]))


def read_accept_routes(value: object) -> AcceptRoutes:
    """The value in a file, or in an application. Raises `ConfigError`."""
    if isinstance(value, list):
        return _prefixes(strings(value))
    word = next((word for word in WORDS if word == value), None)
    if word is None:
        raise ConfigError(f"{string(value)!r} is unknown: write {_FORM}")
    return word


def told(setting: AcceptRoutes) -> str | list[str]:
    """As `read_accept_routes` takes it."""
    return setting if isinstance(setting, str) else [str(prefix) for prefix in setting]


def not_accepted(
    setting: AcceptRoutes, prefixes: Iterable[Prefix], addresses: Iterable[InterfaceAddress]
) -> tuple[Prefix, ...]:
    """Those of the prefixes that a person must be asked about.

    The other side's own addresses are accepted in any case, where they lie in the tunnel's network and that
    is a private one: without them there is no tunnel. `addresses` are this side's in it.
    """
    networks = tuple(address.network for address in addresses if is_private(address.network))
    return tuple(p for p in prefixes if not (_is_in(p, networks) or _accepts(setting, p)))


def _accepts(setting: AcceptRoutes, prefix: Prefix) -> bool:
    if isinstance(setting, tuple):
        return _is_in(prefix, setting)
    return setting == "all" or (setting == "private" and is_private(prefix))


def _is_in(prefix: Prefix, others: Iterable[Prefix]) -> bool:
    return any(
        prefix.version == other.version
        and prefix.prefixlen >= other.prefixlen
        and prefix.network_address in other
        for other in others
    )


def _prefixes(texts: Iterable[str]) -> tuple[Prefix, ...]:
    try:
        found = parse_prefixes(texts)
    except ConfigError as error:
        raise ConfigError(f"{error}; {_FORM} is meant") from None
    if not 1 <= len(found) <= MAX_PREFIXES:
        raise ConfigError(f"takes 1 to {MAX_PREFIXES} prefixes, or one of {', '.join(WORDS)}")
    return found
