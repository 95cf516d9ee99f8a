"""The configuration file and its single values: text in, checked `nconnect.model` values out.

Nothing here opens a file or asks the clock; what is needed from outside (a seed file's text, the key of a
seed, the time) is passed in. The command line reads its options with the same functions, so a mistake is
described in the same words wherever it is made.
"""

from nconnect.config.file import parse, parse_peer
from nconnect.config.proxy import parse_proxy, parse_proxy_setting
from nconnect.config.values import (
    check_host,
    check_identifier,
    check_interface_name,
    check_peer_name,
    format_allow_rule,
    parse_addresses,
    parse_allow_rule,
    parse_allow_rules,
    parse_expires,
    parse_expose,
    parse_key,
    parse_peer_address,
    parse_prefix,
    parse_prefixes,
    parse_seed,
    parse_seed_rpc,
    parse_service,
    parse_subnet,
    split_commas,
)

__all__ = [
    "check_host",
    "check_identifier",
    "check_interface_name",
    "check_peer_name",
    "format_allow_rule",
    "parse",
    "parse_addresses",
    "parse_allow_rule",
    "parse_allow_rules",
    "parse_expires",
    "parse_expose",
    "parse_key",
    "parse_peer",
    "parse_peer_address",
    "parse_prefix",
    "parse_prefixes",
    "parse_proxy",
    "parse_proxy_setting",
    "parse_seed",
    "parse_seed_rpc",
    "parse_service",
    "parse_subnet",
    "split_commas",
]
