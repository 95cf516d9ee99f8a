"""The record of what to restore; all that touches a kernel is in netns_tests/test_host.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.host.diff import SetSysctl
from nconnect.io import sysctl
from nconnect.io.host import _Record

FORWARD = "net/ipv4/ip_forward"


def raised(before: str = "0", value: str = "1") -> SetSysctl:
    return SetSysctl(FORWARD, before, value, True)


def test_a_record_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "host.json"
    record = _Record(addresses=["10.86.0.1/24"])
    record.remember(raised())
    record.write(file)
    assert _Record.read(file) == record
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [f.name for f in file.parent.iterdir()] == ["host.json"]


def test_the_oldest_value_is_the_one_to_restore() -> None:
    record = _Record()
    record.remember(raised("0", "1"))
    record.remember(raised("2", "1"))
    assert record.sysctls == {FORWARD: ("0", "1")}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "null", '{"place": []}', '{"sysctls": {}, "addresses": []}', "\x00\xff"],
)
def test_a_damaged_record_restores_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "host.json"
    file.write_text(content)
    assert _Record.read(file) == _Record()


@pytest.mark.parametrize(
    "name",
    [
        "kernel/core_pattern",
        "net/ipv4/../../kernel/core_pattern",
        "../../etc/passwd",
        "/etc/passwd",
        "net/core/x",
    ],
)
def test_a_record_that_names_anything_but_the_network_restores_nothing(tmp_path: Path, name: str) -> None:
    """The daemon's user can write it, and root restores by it."""
    record = _Record(addresses=["10.86.0.1/24"])
    record.remember(raised())
    record.sysctls[name] = ("|/bin/false", "core")
    record.write(tmp_path / "host.json")
    assert _Record.read(tmp_path / "host.json") == _Record()


@pytest.mark.parametrize(
    "damage",
    [{"sysctls": 5}, {"sysctls": {FORWARD: "1"}}, {"addresses": ["not one"]}, {"place": ["boot", "net:[1]"]}],
)
def test_a_record_of_wrong_shape_or_from_elsewhere_restores_nothing(
    tmp_path: Path, damage: dict[str, object]
) -> None:
    file = tmp_path / "host.json"
    record = _Record(addresses=["10.86.0.1/24"])
    record.remember(raised())
    record.write(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    assert _Record.read(file) == _Record()


def test_only_what_is_still_ours_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctl, "ROOT", tmp_path)
    setting = tmp_path / FORWARD
    setting.parent.mkdir(parents=True)
    record = _Record()
    record.remember(raised())
    for now, after in (("1", "0"), ("2", "2")):
        setting.write_text(now)
        record.restore()
        assert setting.read_text() == after


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot write"):
        _Record().write(tmp_path / "file" / "host.json")
