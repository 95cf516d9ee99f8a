"""Fixtures: one world for the tests that only use it, a fresh one for those that break it."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from lab.world import World, world
from netns_tests import nat_table, recovery
from netns_tests.topology import Provided, provided, start

# Worlds that stand at the same time need names of their own.
SHARED_PREFIX, FILE_PREFIX, FRESH_PREFIX = "nctest", "ncfile", "ncfresh"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--recovery-table", help="write the measured recovery times to this file")
    parser.addoption("--nat-table", help="write which pairs of NATs got a direct path to this file")


def pytest_configure() -> None:
    """Let SIGTERM (of `timeout`, say) end a run like Ctrl-C does, so that its worlds are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how long each fault interrupted a flow, and which pairs of NATs got a direct path."""
    for what, measured, option in (
        ("recovery times", recovery, "--recovery-table"),
        ("direct paths", nat_table, "--nat-table"),
    ):
        if measured.table:
            terminalreporter.section(what)
            terminalreporter.write_line(measured.markdown())
            if path := config.getoption(option):
                Path(path).write_text(measured.markdown() + "\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of daemons and node to the report of a failure."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            made = value.world if isinstance(value, Provided) else value
            if isinstance(made, World):
                report.sections.append(("node and daemons", made.logs()))
                break
    return report


@pytest.fixture(scope="session")
def _shared() -> Iterator[Provided]:
    with world(SHARED_PREFIX) as made, provided(made) as running:
        yield running


@pytest.fixture
def tunnel(_shared: Provided) -> Provided:
    """A tunnel that is up, with servers behind and on the provider. All tests share it: change nothing."""
    return _shared


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """Machines with a tunnel for the tests of one file. Each test leaves them as they were."""
    with world(FILE_PREFIX) as made:
        start(made)
        yield made


@pytest.fixture
def fresh() -> Iterator[World]:
    """Machines on which nothing runs yet, for this test alone."""
    with world(FRESH_PREFIX) as made:
        yield made
