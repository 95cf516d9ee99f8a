"""Which rule forbids user namespaces, told from files as distributions and containers have them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nconnect.io.namespace.userns import why_forbidden


@pytest.mark.parametrize(
    ("files", "code", "words"),
    [
        ({"sys/user/max_user_namespaces": "0"}, errno.ENOSPC, "user.max_user_namespaces"),
        ({"sys/user/max_user_namespaces": "96000"}, errno.ENOSPC, "too many"),
        ({"sys/kernel/unprivileged_userns_clone": "0"}, errno.EPERM, "kernel.unprivileged_userns_clone is 0"),
        (
            {"sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            errno.EACCES,
            "kernel.apparmor_restrict_unprivileged_userns is 1",
        ),
        ({"self/status": "Name:\tx\nSeccomp:\t2\n"}, errno.EPERM, "seccomp"),
        ({"self/status": "Name:\tx\nSeccomp:\t0\n"}, errno.EPERM, "operation not permitted"),
        ({}, errno.ENOSYS, "this kernel has none"),
    ],
)
def test_the_rule_is_named_and_what_works_without(
    tmp_path: Path, files: dict[str, str], code: int, words: str
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    said = why_forbidden(OSError(code, "operation not permitted"), tmp_path)
    assert words in said
    assert "nconnect forward" in said


def test_a_rule_that_allows_them_is_not_blamed(tmp_path: Path) -> None:
    for name, value in (("user/max_user_namespaces", "96000"), ("kernel/unprivileged_userns_clone", "1")):
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    said = why_forbidden(OSError(errno.EPERM, "operation not permitted"), tmp_path)
    assert "user.max" not in said
    assert "_clone" not in said
