from __future__ import annotations

from dataclasses import replace

import pytest

from nconnect.doctor.checks import diagnose
from nconnect.doctor.facts import Facts
from nconnect.doctor.findings import Level
from nconnect.doctor.firewalls import Obstacle
from nconnect.doctor.said import parted
from tests.doctor.examples import FACTS, spoilt

USER_CHAIN = (("iptables", "-I", "DOCKER-USER", "-i", "nc0"),)
DOCKER = Obstacle("docker", "what peers send to 192.168.50.0/24", "ip filter FORWARD", commands=USER_CHAIN)
SAID = (DOCKER.problem,)
LOST = ("no link to a node: connection refused",)
REFUSED = (replace(FACTS.seeds[0], why="refused"),)


@pytest.mark.parametrize(
    ("problem", "text", "mend"),
    [
        (DOCKER.problem, DOCKER.sentence, DOCKER.mend),
        (
            "the clocks here and at a differ by 5 hours: set the one that is wrong (`timedatectl`)",
            "the clocks here and at a differ by 5 hours",
            "set the one that is wrong (`timedatectl`)",
        ),
        ("it is left so; run `a b` and `c`", "it is left so", "run `a b` and `c`"),
        ("left: `a` and `c`", "left", "`a` and `c`"),
        ("not applied: line 3: `=` is missing; run `c`", "not applied: line 3", "`=` is missing; run `c`"),
        ("the task x failed (a: b): a mistake of ours", None, "nconnect logs"),
        ("`a` does not end", None, "nconnect logs"),
    ],
)
def test_what_mends_it_is_parted_from_it(problem: str, text: str | None, mend: str) -> None:
    assert parted(problem) == (text or problem, mend)


@pytest.mark.parametrize(
    ("facts", "checks"),
    [
        (spoilt(said=SAID, obstacles=(DOCKER,)), ["firewall"]),
        (spoilt(said=SAID), []),  # it was mended a moment ago
        (spoilt(said=SAID, nft="nft is missing"), ["nft", "daemon"]),
        (spoilt(said=SAID, net_admin=False), ["privileges", "daemon"]),
        (spoilt(said=LOST, seeds=REFUSED), ["node"]),
        (spoilt(said=LOST), ["daemon"]),
        (spoilt(said=("it is odd",)), ["daemon"]),
    ],
)
def test_what_another_check_says_is_not_said_again(facts: Facts, checks: list[str]) -> None:
    found = [finding for finding in diagnose(facts) if finding.level is not Level.OK]
    assert [finding.check for finding in found] == checks
    assert all(finding.mend for finding in found)
