"""What several runs of the same tests have in common: who has which test file, and how long each one took.

`lab.sharing` is the part of it that runs in pytest.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from lab import CHECKOUT

RECORDED = Path(__file__).with_name("durations.json")
LEAST_S = 1.0  # shorter files are left out of the table: their order makes no difference


def recorded() -> dict[str, float]:
    """Seconds by test file, which is named by its path in the checkout."""
    found: dict[str, float] = json.loads(RECORDED.read_text())
    return found


def record(measured: dict[str, float]) -> None:
    """Replace the recorded times of these files, and drop those of files that are gone."""
    known = {name: s for name, s in (recorded() | measured).items() if (CHECKOUT / name).exists()}
    longest = sorted(known.items(), key=lambda item: (-item[1], item[0]))
    table = {name: round(seconds, 1) for name, seconds in longest if seconds >= LEAST_S}
    RECORDED.write_text(json.dumps(table, indent=1) + "\n")


class Phase(NamedTuple):
    """The setup, the call or the teardown of a test."""

    test: str  # its node id, which begins with the file's name
    when: str
    seconds: float
    failed: bool


class Share:
    """One run's part. `folder` has a file for each test file that was begun, with a line for each phase."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._answers: dict[str, bool] = {}

    def takes(self, name: str) -> bool:
        """Whether the test file of this name is for this run; the first that asks gets it."""
        if name not in self._answers:
            try:
                self._path(name).touch(exist_ok=False)
            except FileExistsError:
                self._answers[name] = False
            else:
                self._answers[name] = True
        return self._answers[name]

    def add(self, phase: Phase) -> None:
        with self._path(file_of(phase.test)).open("a") as file:
            file.write(json.dumps(phase) + "\n")

    def phases(self) -> list[Phase]:
        """The phases of all runs so far."""
        texts = [path.read_text() for path in sorted(self._folder.iterdir())]
        return [Phase(*json.loads(line)) for text in texts for line in text.splitlines()]

    def seconds(self) -> dict[str, float]:
        """How long each file took."""
        found: defaultdict[str, float] = defaultdict(float)
        for phase in self.phases():
            found[file_of(phase.test)] += phase.seconds
        return found

    def _path(self, name: str) -> Path:
        return self._folder / name.replace("/", "+")


def file_of(test: str) -> str:
    """The file's name in a test's node id."""
    return test.partition("::")[0]
