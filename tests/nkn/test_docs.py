"""docs/nkn.md: every program on it runs and prints what it says. The reference is the docstrings'."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from lab import api_docs
from tests.loops import run
from tests.nkn.chain_seed import ChainSeed
from tests.nkn.net import Net

TEXT = (Path(__file__).parents[2] / "docs" / "nkn.md").read_text()
CHAIN = "http://chain.example:30003"
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_print_what_the_page_says(number: int) -> None:
    program, printed = PROGRAMS[number]

    async def test() -> None:
        async with Net.running() as net, ChainSeed.running() as chain:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-W",
                "error",
                "-c",
                program.replace("http://127.0.0.1:30003", net.seed).replace(CHAIN, chain.url),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                out, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            assert out.decode() == printed
            assert process.returncode == 0

    run(test)


def test_every_program_is_run() -> None:
    assert TEXT.count("```python") == len(PROGRAMS) == 8


def test_the_reference_is_current() -> None:
    assert api_docs.PAGE.read_text() == api_docs.page(), "run scripts/api-docs"
