"""JSON from an untrusted source: parse it, and read members of a given type.

`RemoteProtocolError` is raised for bytes that are not UTF-8 or not JSON, NaN and infinities, nesting or
numbers beyond the parser's limits, members of another type, and text that cannot be encoded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer

MAX_JSON_BYTES = 1 << 20  # guessed: the largest real answer is a few KB; parsing 1 MiB takes about 10 ms

Members = Mapping[str, Any]

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")


def load(data: Buffer | str) -> Any:
    """Parse one JSON value."""
    if len(data) > MAX_JSON_BYTES:
        raise RemoteProtocolError("JSON: larger than 1 MiB")
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        # The text of a JSONDecodeError does not contain the input, so it may be shown.
        raise RemoteProtocolError(f"JSON: {str(error) or 'malformed'}") from None


def dump(value: object) -> str:
    """`value` as compact JSON, ASCII only."""
    return _ENCODER.encode(value)


def obj(value: object) -> Members:
    """`value`, which must be an object."""
    if type(value) is not dict:
        raise RemoteProtocolError("JSON: an object was expected")
    return value


def text(members: Members, name: str, default: str | None = None) -> str:
    """A string member; `default` when it is absent or null, an error when there is no default."""
    value = members.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not str:
        raise RemoteProtocolError(f"JSON: {name} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RemoteProtocolError(f"JSON: {name} contains half a surrogate pair") from None
    return value


def text_or_empty(members: Members, name: str) -> str:
    """A string member that is only shown; "" when it is absent or has another type."""
    try:
        return text(members, name, "")
    except RemoteProtocolError:
        return ""


def number(members: Members, name: str, default: int | None = None) -> int:
    """An integer member; `default` when it is absent or null, an error when there is no default."""
    value = members.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or value.bit_length() > 64:
        raise RemoteProtocolError(f"JSON: {name} must be an integer of 64 bits")
    return value


def hex_bytes(members: Members, name: str, size: int | None = None, *, default: str | None = None) -> bytes:
    """The bytes of a string member in hex, which must be `size` long if that is given."""
    value = text(members, name, default)
    if not _HEX.fullmatch(value):
        raise RemoteProtocolError(f"JSON: {name} must be hex")
    if size is not None and len(value) != 2 * size:
        raise RemoteProtocolError(f"JSON: {name} must be {size} bytes in hex")
    return bytes.fromhex(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    """A number with a point or an exponent; refuse one that would become an infinity."""
    value = float(digits)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value


# Created once: `json.loads` and `json.dumps` create one for each call, which is 5 % of a login at a node.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
