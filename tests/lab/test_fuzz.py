"""`scripts/fuzz --keep` keeps what reaches new edges."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("atheris")

from lab import fuzz


def test_what_reaches_new_edges_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    with fuzz.Fuzzer() as fuzzer:
        outcome = fuzzer.fuzz("replay_windows", 1, keep=True, seed=1)
        assert not outcome.finding, outcome.words
        assert outcome.executions > 0
        assert any((tmp_path / "replay_windows").iterdir())
        outcome = fuzzer.fuzz("no_target", 1, keep=False)
        assert outcome.finding == "the fuzzer itself failed"
        assert "no_target" in outcome.words
