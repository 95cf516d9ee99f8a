"""From two empty machines to a friend's first token in a minute, what is typed counted.

printer 192.168.1.10 ── alice ── node ── gpu-box (the model at 127.0.0.1:11434) ── server 192.168.1.10
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lab.process import until
from lab.world import SEED_RPC
from netns_tests.group import Group, Member, group
from netns_tests.model import needs_model
from netns_tests.typist import Typist, typing_s

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
    def on(member: Member, text: str, *answers: tuple[str, str], ends: str | None = None) -> str:
        env = {
            **member.side.env,
            "NCONNECT_CONFIG": str(member.side.config),
            "PATH": f"{Path(sys.prefix, 'bin')}:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        within = member.as_its_machine()
        return person.run(member.name, member.space, text, env=env, within=within, answers=answers, ends=ends)

    made = on(
        provider,
        "sudo nconnect init",
        (r"invit[^\[]*\[none\] $", ""),
        (r"Which node\?[^\[]*\[public\] $", SEED_RPC),
        (r"\(y/n\) \[y\] $", ""),
        (r"Offer which\?[^\[]*\[1\] $", ""),
    )
    assert re.search(r"1  \S+ at 127.0.0.1:11434 \(smollm2-135m-instruct\)", made), made
    on(provider, "sudo nconnect up -d")
    (token,) = re.findall(r"nc1-\S+", on(provider, "sudo nconnect invite alice"))
    assert "joined gpu-box" in on(alice, f"sudo nconnect join «{token}»")
    on(alice, "sudo nconnect up -d")
    listing = "nconnect offers"
    # Names are there before it is typed, which is not waited for here.
    until(lambda: ".gpu-box.internal" in alice.hosts(), "names", timeout_s=LOADED * typing_s(listing))
    (url,) = re.findall(r"http://\S+", on(alice, listing))
    assert url.endswith(".gpu-box.internal:11434"), url
    body = '{"messages":[{"role":"user","content":"Hi"}],"stream":true}'
    on(alice, f"curl -N «{url}»/v1/chat/completions -d '{body}'", ends=r'"content":"[^"]')


def _end(made: Group) -> None:
    """Daemons that went to the background end by themselves."""
    for member in (*made.users, *made.providers):
        if member.side.config.exists():
            member.side.try_nconnect("down")
