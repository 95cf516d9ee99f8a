"""`accept_routes`: which of the prefixes that a provider names are routed without asking a person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from nconnect.config.private import is_private_prefix
from nconnect.config.table import string, strings
from nconnect.config.values import parse_prefixes, split_commas
from nconnect.errors import ConfigError
from nconnect.model import AcceptRoutes, AcceptWord, InterfaceAddress, Prefix, within

WORDS: tuple[AcceptWord, ...] = get_args(AcceptWord)
MAX_PREFIXES = 256  # more would not fit into an application's frame
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
    """The value in the form that `read_accept_routes` reads."""
    return setting if isinstance(setting, str) else [str(prefix) for prefix in setting]


def not_accepted(
    setting: AcceptRoutes, prefixes: Iterable[Prefix], addresses: Iterable[InterfaceAddress]
) -> tuple[Prefix, ...]:
    """The prefixes about which a person must be asked.

    The other side's own tunnel addresses are always accepted if the tunnel's network is private: without
    them there is no tunnel. `addresses` are this side's addresses in that network.
    """
    networks = tuple(address.network for address in addresses if is_private_prefix(address.network))
    return tuple(p for p in prefixes if not (_is_in(p, networks) or is_accepted(setting, p)))


def is_accepted(setting: AcceptRoutes, prefix: Prefix) -> bool:
    """Whether a prefix may be routed without asking a person."""
    if isinstance(setting, tuple):
        return _is_in(prefix, setting)
    return setting == "all" or (setting == "private" and is_private_prefix(prefix))


def _is_in(prefix: Prefix, others: Iterable[Prefix]) -> bool:
    return any(within(prefix, other) for other in others)


def _prefixes(texts: Iterable[str]) -> tuple[Prefix, ...]:
    try:
        found = parse_prefixes(texts)
    except ConfigError as error:
        raise ConfigError(f"{error}; {_FORM} is meant") from None
    if not 1 <= len(found) <= MAX_PREFIXES:
        raise ConfigError(f"must be 1 to {MAX_PREFIXES} prefixes, or one of {', '.join(WORDS)}")
    return found
