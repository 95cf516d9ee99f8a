from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.errors import HostError
from nconnect.io.files.state import StateStore

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateStore:
    monkeypatch.setenv("NCONNECT_STATE_DIR", str(tmp_path))
    return StateStore.of("nc0")


def test_nothing_was_saved(store: StateStore) -> None:
    assert store.load("counters") is None
    assert store.problems == []


@settings(max_examples=30)
@given(JSON)
def test_what_is_saved_is_loaded(value: object) -> None:
    with TemporaryDirectory() as folder:
        StateStore(Path(folder)).save("counters", value)
        assert StateStore(Path(folder)).load("counters") == value


def test_files_and_folder_are_secret(store: StateStore) -> None:
    store.save("counters", {})
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert (store.folder / "counters.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}x'])
def test_a_damaged_file_is_kept_aside_and_reported(
    store: StateStore, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (store.folder / "counters.json").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert store.load("counters") is None
    assert "was damaged" in store.problems[0]
    assert "was damaged" in caplog.text
    assert (store.folder / "counters.json.corrupt").read_bytes() == data
    assert store.load("counters") is None
    store.save("counters", 1)
    assert store.load("counters") == 1
    assert len(store.problems) == 1


def test_a_failing_disk_is_one_line_and_the_old_value_stays(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("counters", 1)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(HostError, match=r"cannot write .*counters\.json: no space left"):
            store.save("counters", 2)
    assert store.load("counters") == 1
    assert "no space left on device: make room" in store.problems[0]
    assert len(store.problems) == 1
    store.save("counters", 3)
    assert store.problems == [], "what is over is not told any more"


def test_a_value_that_is_no_json_changes_nothing(store: StateStore) -> None:
    store.save("counters", 1)
    with pytest.raises(TypeError):
        store.save("counters", object())
    assert store.load("counters") == 1


def test_unreadable_is_an_error_and_not_forgotten(store: StateStore) -> None:
    (store.folder / "counters.json").mkdir()
    with pytest.raises(HostError, match="cannot read"):
        store.load("counters")


def test_remove(store: StateStore) -> None:
    store.save("counters", 1)
    store.remove("counters")
    store.remove("counters")
    assert store.load("counters") is None


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x"])
def test_a_name_is_no_path(store: StateStore, name: str) -> None:
    with pytest.raises(AssertionError):
        store.save(name, 1)
