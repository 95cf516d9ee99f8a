"""From two empty machines to a friend's first token in a minute, what is typed counted.

printer 192.168.1.10 ── alice ── node ── gpu-box (the model at 127.0.0.1:11434) ── server 192.168.1.10
"""

from __future__ import annotations

import re

import pytest

from lab.group import Group, Member, group
from lab.typist import Typist, interview
from lab.world import SEED_RPC
from netns_tests.model import needs_model

WITHIN_S = 60.0
LOADED = 4  # a machine that runs other tests too waits so much longer

pytestmark = [needs_model, pytest.mark.timeout(300)]


def test_a_friend_has_the_first_token_within_a_minute() -> None:
    """Each prompt of the interview is answered by a person, who copies URL and token from what is shown."""
    with group(1, 1, "ft") as made:
        (provider,), (alice,) = made.providers, made.users
        made.serve_model(provider)
        person = Typist()
        try:
            _until_the_first_token(person, provider, alice)
        finally:
            _end(made)
        print(f"\n{person.table()}")
        assert person.typing_s + person.waited_s / LOADED < WITHIN_S


def _until_the_first_token(person: Typist, provider: Member, alice: Member) -> None:
    made = person.run(provider, "sudo nconnect init", *interview(SEED_RPC))
    assert re.search(r"1  \S+ at 127.0.0.1:11434 \(smollm2-135m-instruct\)", made), made
    person.run(provider, "sudo nconnect up -d")
    (token,) = re.findall(r"nc1-\S+", person.run(provider, "sudo nconnect invite alice"))
    assert "joined gpu-box" in person.run(alice, f"sudo nconnect join «{token}»")
    person.run(alice, "sudo nconnect up -d")
    assert ".gpu-box.internal" in alice.hosts(), "names resolve when `up -d` returns"
    (url,) = re.findall(r"http://\S+", person.run(alice, "nconnect offers"))
    assert url.endswith(".gpu-box.internal:11434"), url
    asked = '{"messages":[{"role":"user","content":"Hi"}],"stream":true}'
    chat = f"curl -N «{url}»/v1/chat/completions -d '{asked}'"
    person.run(alice, chat, ends=lambda shown: '"content":"' in shown)


def _end(made: Group) -> None:
    """Daemons that went to the background end by themselves."""
    for member in (*made.users, *made.providers):
        if member.side.config.exists():
            member.side.try_nconnect("down")
