"""What the bench builds: once, what is missing of it, and one line when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.bench.contenders.built import go_programs, rust_program

GO = """\
#!/bin/sh
echo "$@" >> {log}
cat go.mod >> {log}
[ -z "$REFUSE" ] || {{ echo many words >&2; echo "$REFUSE" >&2; exit 1; }}
touch "$4tool"
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a `go` that is the only one on the path was asked for."""
    asked = tmp_path / "asked"
    program = tmp_path / "go"
    program.write_text(GO.format(log=asked))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return asked


def test_what_is_built_is_not_built_again(log: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    for _ in range(2):
        assert go_programs(made, {"example.org/a": "v1"}, "example.org/a/tool") is None
    assert log.read_text().count(f"build -mod=mod -o {made}/ example.org/a/tool\n") == 1
    assert "require example.org/a v1\n" in log.read_text()
    assert go_programs(made, {"example.org/a": "v1"}, "example.org/a/tool", "example.org/a/other") is None
    assert f"-o {made}/ example.org/a/other\n" in log.read_text()


def test_a_build_that_fails_is_one_line(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSE", "requires go >= 9")
    why = go_programs(tmp_path / "made", {"example.org/a": "v1"}, "example.org/a/tool")
    assert why == "building it failed: requires go >= 9"


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.bench.contenders.built.shutil.which", lambda name, path=None: None)
    assert go_programs(tmp_path, {"example.org/a": "v1"}, "example.org/a/tool") == "Go is not installed"
    assert rust_program(tmp_path, "1.0.0", "crate") == "Rust is not installed"
