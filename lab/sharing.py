"""A pytest plugin: several runs of the same tests share the files, and record how long each one took.

The runs have a folder in common (`--share`). Each run takes the next file that no other run has begun. The
longest come first, by the times recorded in `durations.json`, so that all runs end at about the same time.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from lab.shared import Phase, Share, file_of, recorded

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
            key=lambda item: seconds.get(file_of(item.nodeid), 0.0), reverse=True
        )  # stable: files stay whole


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Return true (nothing left to do) for a test whose file another run has.

    The test before it has left what both have in common, such as their folder, set up for it: that is torn
    down here as far as the next test does not need it.
    """
    share = item.config.stash.get(_share, None)
    if share is None or share.takes(file_of(item.nodeid)):
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
