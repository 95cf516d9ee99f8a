from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from nconnect.cli import doctor
from nconnect.doctor.facts import Facts, SeedFact
from nconnect.doctor.findings import failure, ok, warning
from nconnect.io.doctor import run_fix
from nconnect.io.files import config_file
from tests.cli.conftest import Run
from tests.control.fake import FakeBackend
from tests.doctor.examples import FACTS, spoilt


def see(monkeypatch: pytest.MonkeyPatch, *facts: Facts) -> list[Facts]:
    """Let the doctor find these facts, one after another."""
    left = list(facts)
    monkeypatch.setattr(doctor, "_look", lambda *_: left.pop(0) if len(left) > 1 else left[0])
    return left


def test_nothing_wrong_is_status_0(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, FACTS)
    result = run("doctor")
    assert (result.status, result.err) == (0, "")
    assert result.out.rstrip().endswith("nothing is wrong")
    assert "\x1b" not in result.out


def test_a_failure_is_status_1_and_a_warning_is_not(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, spoilt(running=False))
    assert run("doctor").status == 0
    see(monkeypatch, spoilt(seeds=(SeedFact("http://x:1", why="refused"),)))
    result = run("doctor", "--json")
    assert result.status == 1
    content = json.loads(result.out)
    assert content["ok"] is False
    assert {"check", "level", "text", "mend", "fixable"} == set(content["findings"][0])


def test_fix_runs_what_is_safe_and_looks_again(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text("x")
    other.chmod(0o644)
    see(monkeypatch, spoilt(config_readable_by_others=True, path=str(other)), FACTS)
    result = run("doctor", "--fix")
    assert result.status == 0
    assert f"ran      chmod 600 {other}" in result.out
    assert other.stat().st_mode & 0o777 == 0o600


def test_without_fix_nothing_is_run(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nconnect.io.doctor.run_fix", lambda _: pytest.fail("it was run"))
    see(monkeypatch, spoilt(config_readable_by_others=True))
    result = run("doctor")
    assert "`nconnect doctor --fix` fixes config" in result.out


def test_a_fix_that_fails_is_said(tmp_path: Path) -> None:
    assert run_fix(("nconnect-no-such-program",)) == "nconnect-no-such-program is not installed"
    assert "no such file" in run_fix(("chmod", "600", str(tmp_path / "none")))
    assert run_fix(("true",)) == ""


def test_the_report_holds_no_secret(
    run: Run, made: Path, daemon: FakeBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = "ab" * 16 + "0123456789abcdef" * 2
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o600)
    address = "laptop." + daemon.state.public_key
    added = run(
        "peer", "add", "x", address, "--allowed-ips", "10.86.0.9/32", "--preshared-key-file", tmp_path / "key"
    )
    assert added.status == 0, added.err
    config = config_file.load(made)
    log = tmp_path / "state" / "nc0" / "nconnect.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"one\nseed is {config.seed.hex()}\nkey {key}\nnc1-abcdefghijklmnopqrstu\n")
    see(monkeypatch, spoilt(config=config, path=str(made)))
    bundle = tmp_path / "report.tar.gz"
    assert run("doctor", "--report", bundle).status == 0
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as opened:
        texts = {m.name: opened.extractfile(m).read().decode() for m in opened.getmembers()}  # type: ignore[union-attr]
    whole = "\n".join(texts.values())
    for secret in (config.seed.hex(), key, "nc1-abc"):
        assert secret not in whole
    assert address in whole
    assert "one\nseed is (removed)" in texts["nconnect-report/nconnect.log"]
    assert "seed = (removed)" in texts["nconnect-report/nc0.toml"]


def test_the_report_overwrites_nothing(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    see(monkeypatch, FACTS)
    (tmp_path / "there").write_text("precious")
    result = run("doctor", "--report", tmp_path / "there")
    assert result.status == 1
    assert "exists already" in result.err
    assert (tmp_path / "there").read_text() == "precious"


@pytest.mark.parametrize("host", ["nowhere", "192.168.50.0/24"])
def test_a_host_must_be_one_address(run: Run, made: Path, host: str) -> None:
    result = run("doctor", "--host", host)
    assert result.status == 2
    assert "--host" in result.err


def test_the_text_is_aligned() -> None:
    lines = doctor.text_of([ok("a", "fine"), failure("long name", "bad", "do it"), warning("b", "hm")]).split(
        "\n"
    )
    assert lines[0] == "ok       a          fine"
    assert lines[1] == "failure  long name  bad"
    assert lines[2] == "                    -> do it"
    assert lines[-1] == "1 failure, 1 warning"


def test_it_looks_for_real(run: Run, made: Path) -> None:
    """Whatever this machine is like: no exception, and every line is judged."""
    made.write_text(made.read_text() + '\n[network]\nseed_rpc = ["http://127.0.0.1:9"]\n')
    result = run("doctor", "--json")
    assert result.err == ""
    levels = {f["check"]: f["level"] for f in json.loads(result.out)["findings"]}
    assert levels["config"] == "ok"
    assert levels["node"] == "failure"
    made.unlink()
    result = run("doctor", "--json")
    assert result.status == 1
    assert "does not exist" in json.loads(result.out)["findings"][0]["text"]
