from __future__ import annotations

import json

import h11
import pytest

from nconnect.io.http.http import Request, Response, framed, header_texts


def test_a_request_s_parts() -> None:
    ask = Request(
        "GET", "/v1/wait?peer=gpu&timeout_s=3&peer=box&x=", (("host", "node:30003"), ("a", "1"), ("a", "2"))
    )
    assert ask.path == "/v1/wait"
    assert ask.query == {"peer": "box", "timeout_s": "3", "x": ""}
    assert ask.host == "node:30003"
    assert (ask.header("a"), ask.header("b")) == ("1", "")
    bare = Request("GET", "/", ())
    assert (bare.path, bare.query, bare.host) == ("/", {}, "")


def test_a_json_answer() -> None:
    answer = Response.json({"a": [1, "ä"]}, 409, (("x-y", "z"),))
    assert answer.status == 409
    assert json.loads(answer.body) == {"a": [1, "ä"]}
    assert (answer.header("content-type"), answer.header("x-y")) == ("application/json", "z")


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_a_body_is_framed_whole(body: bytes) -> None:
    ours, theirs = h11.Connection(h11.CLIENT), h11.Connection(h11.SERVER)
    head = h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", str(len(body)))])
    theirs.receive_data((ours.send(head) or b"") + framed(ours, body))
    asked = theirs.next_event()
    assert isinstance(asked, h11.Request)
    assert ("host", "x") in header_texts(asked.headers)
    if body:
        assert bytes(theirs.next_event().data) == body  # type: ignore[union-attr]
    assert isinstance(theirs.next_event(), h11.EndOfMessage)
