"""A person at terminals of 80 columns: how long what they type and wait for takes.

Typing is counted, 5 characters a second, and so is what they copy and paste, 2 s each; waiting is measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.group import Member
from lab.sides import nconnect_command
from lab.terminal import Ends, on_terminal

PER_S = 5  # characters
PASTE_S = 2.0
COLUMNS = 80
PASTED = re.compile(r"«(.*?)»")  # in what is typed: this part is copied from elsewhere


def typing_s(text: str) -> float:
    """How long a line takes, with the Enter at its end."""
    return (len(PASTED.sub("", text)) + 1) / PER_S + PASTE_S * len(PASTED.findall(text))


@dataclass(frozen=True, slots=True)
class Step:
    who: str
    typed: str
    typing_s: float
    waited_s: float


@dataclass
class Typist:
    columns: int = COLUMNS
    steps: list[Step] = field(default_factory=list)

    @property
    def typing_s(self) -> float:
        return sum(step.typing_s for step in self.steps)

    @property
    def waited_s(self) -> float:
        return sum(step.waited_s for step in self.steps)

    def run(
        self,
        member: Member,
        text: str,
        *answers: tuple[str, str],
        ends: Ends | None = None,
    ) -> str:
        """Type a line into a shell on a member's machine, answer its prompts, and return what is shown.

        `answers` and `ends` are those of `on_terminal`; Ctrl-C is pressed at the end.
        """
        waited_s = 0.0
        began = time.monotonic()

        def is_end(shown: str) -> bool:
            nonlocal waited_s
            waited_s = time.monotonic() - began
            return ends is None or ends(shown)

        command = member.as_its_machine("sh", "-c", PASTED.sub(r"\1", text).replace("sudo ", ""))
        shown = on_terminal(
            member.space.command(command),
            env=_environment(member),
            ends=is_end if ends is not None else None,
            key="\x03",
            answers=answers,
            columns=self.columns,
            may_fail=ends is not None,
        )
        if ends is None:
            waited_s = time.monotonic() - began
        words = " ⏎ ".join((text, *(answer or "(Enter)" for _, answer in answers)))
        typed_s = typing_s(text) + sum(typing_s(answer) for _, answer in answers)
        self.steps.append(Step(member.name, PASTED.sub("(paste)", words), typed_s, waited_s))
        return shown

    def table(self) -> str:
        """A line for each step, in seconds."""
        rows = [f"{step.typing_s:7.1f} {step.waited_s:8.2f}  {step.who}$ {step.typed}" for step in self.steps]
        total = f"{self.typing_s:7.1f} {self.waited_s:8.2f}  {self.typing_s + self.waited_s:.1f} s in all"
        return "\n".join((" typing  waiting", *rows, total))


def _environment(member: Member) -> Mapping[str, str]:
    """In which `nconnect` alone is this checkout's, with the member's files."""
    programs = Path(nconnect_command()[0]).parent
    return {
        **member.side.env,
        "NCONNECT_CONFIG": str(member.side.config),
        "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
    }


def interview(seed_rpc: str) -> Sequence[tuple[str, str]]:
    """The answers of somebody who has no invitation, to the questions of `init`: Enter, but for the node."""
    return (
        (r"invit[^\[]*\[none\] $", ""),
        (r"Which node\?[^\[]*\[public\] $", seed_rpc),
        (r"\(y/n\) \[y\] $", ""),
        (r"Offer which\?[^\[]*\[[0-9,]+\] $", ""),
    )
