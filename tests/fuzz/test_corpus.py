"""Every input that fuzzing kept, findings included, passes its target."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_was_found_before_passes(name: str) -> None:
    for path in sorted((CORPUS / name).glob("*")):
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_nothing_and_noise_pass(name: str) -> None:
    noise = random.Random(name)
    for size in (0, 1, 2, 3, 10, 40, 200):
        TARGETS[name](noise.randbytes(size))


def test_the_corpus_belongs_to_targets() -> None:
    assert set(os.listdir(CORPUS)) <= set(TARGETS)
