"""The control API as an OpenAPI 3.1 document, with the dataclasses of `nconnect.control.schema`."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from nconnect import __version__
from nconnect.control import schema
from nconnect.control.server import DEFAULT_WAIT_S, MAX_SINCE, MAX_WAIT_S

_ENUMS = {
    ("LinkStatus", "state"): schema.LINK_STATES,
    ("PeerStatus", "state"): schema.PEER_STATES,
    ("PeerStatus", "path"): schema.PATHS,
    ("DirectStatus", "state"): schema.DIRECT_STATES,
    ("DirectStatus", "kind"): schema.DIRECT_KINDS,
    ("DirectHere", "nat"): schema.NATS,
    ("PausedStatus", "by"): schema.PAUSED_BY,
    ("PingReply", "path"): schema.PATHS,
}
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
_REFUSALS = {
    400: "The request is malformed.",
    403: "Only root and the daemon's own user may ask.",
    409: "The daemon refuses; nothing has changed.",
    500: "A mistake of the daemon's: its log has the traceback.",
    504: "It took too long.",
}
_SWITCHED = {"description": "The connection carries the stream from here on, framed as control-api.md says."}
_SECONDS = {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S}


def document() -> str:
    """The document, JSON with a line's end."""
    return json.dumps(_document(), indent=2) + "\n"


def values() -> dict[str, type]:
    """The dataclasses of the schema by name."""
    return {
        name: value
        for name, value in vars(schema).items()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == schema.__name__
    }


def paths() -> dict[str, dict[str, Any]]:
    """What can be asked. `tests/lab/test_reference.py` compares it with the server's own routes."""
    peer = {"type": "string", "description": "The peer's name."}
    timeout = {"type": "number", "default": DEFAULT_WAIT_S, **_SECONDS}
    return {
        "/v1/status": {"get": _operation("The whole state.", _ref("Status"))},
        "/v1/wait": {
            "get": _operation(
                "Answer once the address is set, a link is up and, if a peer is named, its session.",
                _empty(),
                409,
                504,
                parameters=[_query("peer", peer), _query("timeout_s", timeout)],
            )
        },
        "/v1/pending": {
            "get": _operation(
                "Who is no peer and tried to come in, the latest last; only with accept_pending.",
                _object({"pending": {"type": "array", "items": _ref("PendingPeer")}}),
            )
        },
        "/v1/offers": {
            "get": _operation(
                "What the providers of this device offer to it now.",
                _object({"offers": {"type": "array", "items": _ref("OfferLine")}}),
            )
        },
        "/v1/usage": {
            "get": _operation(
                "What each peer used, by hour and by day (UTC).",
                _ref("UsageReport"),
                409,
                parameters=[
                    _query(
                        "since",
                        {
                            "type": "number",
                            "description": "Unix time.",
                            "minimum": 0,
                            "maximum": MAX_SINCE,
                            "default": 0,
                        },
                    )
                ],
            )
        },
        "/v1/reload": {"post": _operation("Read the file again and apply what changed.", _empty(), 409)},
        "/v1/down": {"post": _operation("Stop; answers before it has stopped.", _empty())},
        "/v1/streams": {
            "post": {
                **_operation(
                    "A stream to a TCP server behind a peer; needs the header `Upgrade: nconnect-stream`.",
                    _empty(),
                    409,
                    504,
                    body={
                        "type": "object",
                        "properties": {
                            "host": {
                                "type": "string",
                                "description": "An address, or a name beneath .internal.",
                            },
                            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                        },
                        "required": ["host", "port"],
                    },
                    done="101",
                )
            }
        },
        "/v1/ping": {
            "post": _operation(
                "One round trip to the peer's daemon.",
                _ref("PingReply"),
                409,
                504,
                body={
                    "type": "object",
                    "properties": {"peer": peer, "timeout_s": {"default": 5.0, **_SECONDS}},
                    "required": ["peer"],
                },
            )
        },
    }


def _document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nconnect control API",
            "version": __version__,
            "summary": "HTTP over /run/nconnect/<interface>.sock, for root and the daemon's own user.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "over the unix socket"}],
        "paths": paths(),
        "components": {
            "schemas": {
                **{name: _schema_of(value) for name, value in values().items()},
                "Refusal": _object({"error": {"type": "string", "description": "One line."}}),
            }
        },
    }


def _operation(
    summary: str,
    answer: dict[str, Any],
    *refusals: int,
    body: Any = None,
    parameters: Any = None,
    done: str = "200",
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    codes = sorted({403, 500, *refusals, *((400,) if body or parameters else ())})
    operation["responses"] = {
        done: _SWITCHED if done == "101" else {"description": "Done.", "content": _json(answer)},
        **{str(code): {"description": _REFUSALS[code], "content": _json(_ref("Refusal"))} for code in codes},
    }
    return operation


def _schema_of(value: type) -> dict[str, Any]:
    hints = typing.get_type_hints(value)
    properties = {}
    for field in dataclasses.fields(value):
        properties[field.name] = _type(hints[field.name])
        if enum := _ENUMS.get((value.__name__, field.name)):
            properties[field.name]["enum"] = list(enum)
    # The daemon always sends every field.
    found = {**_object(properties), "additionalProperties": True}
    return {"description": (value.__doc__ or "").strip().partition("\n")[0], **found}


def _type(hint: Any) -> dict[str, Any]:
    """A JSON schema of a field's type; raises `TypeError` for one that is not known here."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _ref(hint.__name__)
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0])}
    if origin in (Mapping, dict):
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [{"type": "null"} if a is type(None) else _type(a) for a in arguments]}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    raise TypeError(f"no JSON schema for {hint}")


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _empty() -> dict[str, Any]:
    return {"type": "object"}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _query(name: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": content}


def _json(content: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": content}}
