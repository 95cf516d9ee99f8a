"""A pytest plugin: several runs of the same tests share the files, and record how long each one took.

The runs have a folder in common (`--share`). Each run takes the next file that no other run has begun. The
longest come first, by the times recorded in `durations.json`, so that all runs end at about the same time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

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
        with self._path(_file(phase.test)).open("a") as file:
            file.write(json.dumps(phase) + "\n")

    def phases(self) -> list[Phase]:
        """The phases of all runs so far."""
        texts = [path.read_text() for path in sorted(self._folder.iterdir())]
        return [Phase(*json.loads(line)) for text in texts for line in text.splitlines()]

    def seconds(self) -> dict[str, float]:
        """How long each file took."""
        found: defaultdict[str, float] = defaultdict(float)
        for phase in self.phases():
            found[_file(phase.test)] += phase.seconds
        return found

    def _path(self, name: str) -> Path:
        return self._folder / name.replace("/", "+")


_share = pytest.StashKey[Share]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share", type=Path, metavar="FOLDER", help="leave out the files that another run with it has begun"
    )


def pytest_configure(config: pytest.Config) -> None:
    if folder := config.getoption("--share"):
        config.stash[_share] = Share(folder)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _share in config.stash:
        seconds = recorded()
        items.sort(
            key=lambda item: seconds.get(_file(item.nodeid), 0.0), reverse=True
        )  # stable: files stay whole


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Return true (nothing left to do) for a test whose file another run has.

    The test before it has left what both have in common, such as their folder, set up for it: that is torn
    down here as far as the next test does not need it.
    """
    share = item.config.stash.get(_share, None)
    if share is None or share.takes(_file(item.nodeid)):
        return None
    item.session._setupstate.teardown_exact(nextitem)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note the seconds of a test's call, of its fixtures' setup and of their teardown."""
    report = yield
    if share := item.config.stash.get(_share, None):
        share.add(Phase(item.nodeid, call.when, call.duration, report.failed))
    return report


def _file(test: str) -> str:
    return test.partition("::")[0]
