from __future__ import annotations

import io
import json
import logging
import os
import sys
import tarfile
from pathlib import Path

import pytest

from nconnect.cli import logs
from nconnect.errors import ControlError
from tests.cli.conftest import Run


def record(text: str = "peer up", level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "nconnect.x", "levelno": level, "levelname": logging.getLevelName(level)}
    )
    made.msg = text
    made.__dict__.update(fields)
    return made


def test_json_lines_carry_the_fields() -> None:
    line = logs.formatter(dated=False, form="json", journal=False).format(
        record("a\nb", logging.WARNING, event="peer_up", peer="laptop", unknown="x")
    )
    assert "\n" not in line
    content = json.loads(line)
    assert content.pop("time") > 0
    assert content == {
        "level": "warning", "logger": "nconnect.x", "message": "a\nb", "event": "peer_up", "peer": "laptop",
    }  # fmt: skip


def test_json_keeps_a_traceback_on_its_line() -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        made = record(exc_info=sys.exc_info())
    line = logs.JsonLines().format(made)
    assert "\n" not in line
    assert "ZeroDivisionError" in json.loads(line)["traceback"]


def test_text_is_one_line_whatever_a_node_says() -> None:
    line = logs.formatter(dated=False, form="text", journal=False).format(record("a\nJan 1 fake\r\nb"))
    assert line.endswith(" INFO a Jan 1 fake b")


@pytest.mark.parametrize(
    ("level", "prefix"), [(logging.ERROR, "<3>"), (logging.INFO, "<6>"), (logging.DEBUG, "<7>")]
)
@pytest.mark.parametrize("form", logs.FORMATS)
def test_the_journal_gets_levels_and_no_time(level: int, prefix: str, form: str) -> None:
    line = logs.formatter(dated=False, form=form, journal=True).format(record("hm", level))
    assert line.startswith(prefix)
    if form == "text":
        assert line == f"{prefix}hm"


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with open(tmp_path / "x", "w") as file:
        status = os.fstat(file.fileno())
        mine = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert logs.is_journal(file, mine)
        assert not logs.is_journal(file, {"JOURNAL_STREAM": "1:2"})
        assert not logs.is_journal(file, {})
    assert not logs.is_journal(io.StringIO(), mine)


def test_the_last_lines(run: Run, made: Path, tmp_path: Path) -> None:
    log = tmp_path / "state" / "nc0" / "nconnect.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"{n} {'x' * 100}\n" for n in range(3000)))
    result = run("logs", "-n", 2)
    assert (result.status, result.err) == (0, "")
    assert [line.split()[0] for line in result.out.splitlines()] == ["2998", "2999"]
    assert len(run("logs", "-n", 2500).out.splitlines()) == 2500
    assert len(run("logs", "-n", 9999).out.splitlines()) == 3000
    assert run("logs", "-n", 0).out == ""


def test_no_log_is_one_line(run: Run, made: Path) -> None:
    result = run("logs")
    assert result.status == 1
    assert "only `up -d` writes one" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is led astray")
def test_root_follows_no_link_of_the_daemons_user(run: Run, made: Path, tmp_path: Path) -> None:
    """Neither to show the log nor to put it into a report."""
    secret = tmp_path / "secret"
    secret.write_text("root's own\n")
    secret.chmod(0o600)
    log = tmp_path / "state" / "nc0" / "nconnect.log"
    log.parent.mkdir(parents=True)
    os.chown(log.parent, 12345, 12345)
    for place in (log.symlink_to, log.hardlink_to):
        place(secret)
        result = run("logs")
        assert result.status == 1
        assert "cannot be read: " in result.err
        run("doctor", "--report", tmp_path / "report.tar.gz")
        with tarfile.open(tmp_path / "report.tar.gz") as opened:
            shown = opened.extractfile("nconnect-report/nconnect.log")
            assert shown is not None
            assert shown.read() == b""
        (tmp_path / "report.tar.gz").unlink()
        log.unlink()


def test_following_survives_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_text("one\n")
    steps = iter(["two\n", None, "three\n"])
    written: list[str] = []

    def pause(_: float) -> None:
        text = next(steps, "")
        if text is None:
            path.rename(tmp_path / "old")
            path.write_text("new\n")
        elif text:
            with open(path, "a") as file:
                file.write(text)

    monkeypatch.setattr("time.sleep", pause)
    logs.show_file(path, 5, follow=True, write=written.append, stop=lambda: "three\n" in "".join(written))
    assert "".join(written) == "one\ntwo\nnew\nthree\n"


def test_what_a_daemon_s_user_writes_does_not_move_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("\x1b[2J\x1b]0;owned\x07one\ttwo\u202e\r\nthree é\n", newline="")
    written: list[str] = []
    logs.show_file(path, 5, follow=False, write=written.append)
    text = "".join(written)
    assert not set("\x1b\x07\r\u202e") & set(text)
    assert "one\ttwo" in text
    assert text.endswith("three é\n")


def test_a_line_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file costs its writer nothing."""
    monkeypatch.setattr(logs, "TAIL_BYTES", 1 << 20)
    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
        file.seek(0, 2)
        file.write(b"\nlast\n")
    written: list[str] = []
    logs.show_file(path, 5, follow=False, write=written.append)
    assert written[0].endswith("\nlast\n")
    assert len(written[0]) <= 4 << 20


def test_a_log_that_may_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot be read"):
        logs.show_file(tmp_path, 1, follow=False, write=print)
