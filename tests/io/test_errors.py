from __future__ import annotations

import errno
import socket

import pytest

from nconnect.errors import ConfigError, HostError
from nconnect.io.errors import as_host_error, plain_reason, reason


@pytest.mark.parametrize(
    ("error", "own", "plain"),
    [
        (OSError(errno.ENOENT, "No such file or directory", "/x"), "no such file or directory", None),
        (OSError(errno.ECONNREFUSED, "Connect call failed ('::1', 1)"), "connect call failed ('::1', 1)",
         "connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known", None),
        (OSError("No address"), "no address", None),
        (BrokenPipeError(), "brokenpipeerror", None),
    ],
)  # fmt: skip
def test_why_in_one_line(error: OSError, own: str, plain: str | None) -> None:
    assert reason(error) == own
    assert plain_reason(error) == (plain or own)


def test_a_system_error_becomes_ours_and_others_stay() -> None:
    with pytest.raises(HostError) as ours, as_host_error("cannot read /x"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")
    assert str(ours.value) == "cannot read /x: no such file or directory"
    mine = ConfigError("mine")
    with pytest.raises(ConfigError) as other, as_host_error("cannot read /x"):
        raise mine
    assert other.value is mine


def test_what_the_caller_handles_itself_passes() -> None:
    with pytest.raises(FileNotFoundError), as_host_error("cannot read /x", passes=FileNotFoundError):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")
    with pytest.raises(HostError), as_host_error("cannot read /x", passes=FileNotFoundError):
        raise PermissionError(errno.EACCES, "Permission denied", "/x")


@pytest.mark.parametrize(
    ("uid", "error", "hint"),
    [
        (1000, PermissionError(errno.EACCES, "Permission denied"), " (try with sudo)"),
        (0, PermissionError(errno.EACCES, "Permission denied"), ""),
        (1000, OSError(errno.ENOSPC, "No space left on device"), ""),
    ],
)
def test_who_lacks_permission_and_is_not_root_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, uid: int, error: OSError, hint: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    with pytest.raises(HostError) as ours, as_host_error("cannot write /x", denied=" (try with sudo)"):
        raise error
    assert str(ours.value) == f"cannot write /x: {reason(error)}{hint}"
