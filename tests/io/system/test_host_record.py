"""The record of what to restore; that it is restored is in netns_tests/test_host.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nconnect.host.diff import SetSysctl
from nconnect.io.system import sysctl
from nconnect.io.system.host_record import HostRecord, RecordFile

FORWARD = "net/ipv4/ip_forward"


def raised(before: str = "0", value: str = "1") -> SetSysctl:
    return SetSysctl(FORWARD, before, value, True)


def test_a_record_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "host.json"
    assert not RecordFile(file.parent).exists()
    record = HostRecord(addresses=["10.86.0.1/24"])
    record.remember(raised())
    RecordFile(file.parent).write(record)
    assert RecordFile(file.parent).exists()
    assert RecordFile(file.parent).read() == record
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [f.name for f in file.parent.iterdir()] == ["host.json"]


def test_the_oldest_value_is_the_one_to_restore() -> None:
    record = HostRecord()
    record.remember(raised("0", "1"))
    record.remember(raised("2", "1"))
    assert record.sysctls == {FORWARD: ("0", "1")}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "null", '{"place": []}', '{"sysctls": {}, "addresses": []}', "\x00\xff"],
)
def test_a_damaged_record_restores_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "host.json").write_text(content)
    assert RecordFile(tmp_path).read() == HostRecord()


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
    record = HostRecord(addresses=["10.86.0.1/24"])
    record.remember(raised())
    record.sysctls[name] = ("|/bin/false", "core")
    RecordFile(tmp_path).write(record)
    assert RecordFile(tmp_path).read() == HostRecord()


@pytest.mark.parametrize(
    "damage",
    [{"sysctls": 5}, {"sysctls": {FORWARD: "1"}}, {"addresses": ["not one"]}, {"place": ["boot", "net:[1]"]}],
)
def test_a_record_of_wrong_shape_or_from_elsewhere_restores_nothing(
    tmp_path: Path, damage: dict[str, object]
) -> None:
    file = tmp_path / "host.json"
    record = HostRecord(addresses=["10.86.0.1/24"])
    record.remember(raised())
    RecordFile(tmp_path).write(record)
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    assert RecordFile(tmp_path).read() == HostRecord()


def test_only_what_is_still_ours_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctl, "ROOT", tmp_path)
    setting = tmp_path / FORWARD
    setting.parent.mkdir(parents=True)
    record = HostRecord()
    record.remember(raised())
    for now, after in (("1", "0"), ("2", "2")):
        setting.write_text(now)
        record.restore()
        assert setting.read_text() == after


def test_what_cannot_be_written_is_known_to_the_process_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = RecordFile(tmp_path / "file" / "nc0")
    record = HostRecord(addresses=["10.86.0.1/24"])
    file.write(record)
    assert file.problem.startswith(f"cannot write {tmp_path}/file/nc0/host.json: ")
    assert "nobody knows what it has changed here" in file.problem
    assert file.read() is record
    assert RecordFile(tmp_path / "file" / "nc0").read() == HostRecord()
    (tmp_path / "file").unlink()
    file.write(record)
    assert (file.problem, file.read()) == ("", record)
    file.remove()
    assert (file.exists(), file.read()) == (False, HostRecord())
    file.remove()


def test_what_interfaces_that_are_gone_left_is_found(tmp_path: Path) -> None:
    record = HostRecord()
    record.remember(raised())
    for name in ("nc0", "nc1", "nc2"):
        RecordFile(tmp_path / name).write(record)
    RecordFile(tmp_path / "nc3").write(HostRecord(addresses=["10.86.0.1/24"]))  # nothing to restore
    ours = RecordFile(tmp_path / "nc0")
    (left,) = ours.left_by_others({"nc1", "lo"})
    assert left.read() == record
    left.remove()
    assert ours.left_by_others({"nc1", "lo"}) == []
    assert not (tmp_path / "nc2" / "host.json").exists()
    assert ours.exists()


def test_what_is_kept_stays_as_it_is_and_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {FORWARD: "1", "net/ipv4/conf/nc0/route_localnet": "1"}
    monkeypatch.setattr(sysctl, "read", values.get)
    monkeypatch.setattr(sysctl, "write", values.__setitem__)
    record = HostRecord(dict.fromkeys(values, ("0", "1")))
    record.restore(keep={FORWARD})
    assert values == {FORWARD: "1", "net/ipv4/conf/nc0/route_localnet": "0"}
    assert record.sysctls == {FORWARD: ("0", "1")}


def test_a_record_of_an_older_version_names_no_interfaces(tmp_path: Path) -> None:
    file = RecordFile(tmp_path)
    file.write(HostRecord({FORWARD: ("0", "1")}, interfaces=["eth0"]))
    assert file.read().interfaces == ["eth0"]
    path = tmp_path / "host.json"
    old = json.loads(path.read_text())
    del old["interfaces"]
    path.write_text(json.dumps(old))
    assert file.read() == HostRecord({FORWARD: ("0", "1")})
