"""The running daemon's problems as findings: each sentence is split into the problem and what to do.

Problems that a check has looked at itself are left out, because the check's result is newer: the daemon looks
at the firewalls every few seconds only, so it may still report what was fixed a moment ago.
"""

from __future__ import annotations

from collections.abc import Iterator

from nconnect.doctor.facts import Facts
from nconnect.doctor.findings import Finding, warning
from nconnect.doctor.firewalls import is_obstacle
from nconnect.doctor.routing import is_detour
from nconnect.errors import NO_LINK

_LOOK = "nconnect logs"  # for a sentence that names no command


def said_by_the_daemon(facts: Facts) -> Iterator[Finding]:
    for problem in facts.said:
        if not _is_known(problem, facts):
            yield warning("daemon", *parted(problem))


def parted(problem: str) -> tuple[str, str]:
    """(the problem, what to do): what to do is the clause of the sentence with the first command."""
    before, tick, _ = problem.partition("`")
    end = max(before.rfind(": "), before.rfind("; "))
    if not tick or end < 0:
        return problem, _LOOK
    mend = problem[end + 2 :]
    whole = mend.count("`") == 2 and mend.startswith("`") and mend.endswith("`")
    return problem[:end], mend.strip("`") if whole else mend


def _is_known(problem: str, facts: Facts) -> bool:
    if is_obstacle(problem):
        return facts.net_admin and not facts.nft
    if is_detour(problem):
        return facts.detours is not None
    return problem.startswith(NO_LINK) and any(seed.why for seed in facts.seeds)
