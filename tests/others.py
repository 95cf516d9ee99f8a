"""Programs that tests run as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

UID = 61_300  # in no list of users, and no other test's
BECOME = ("setpriv", "--reuid", str(UID), "--regid", "0", "--clear-groups")


def _can_become() -> bool:
    """Root may; and the interpreter, where it is in somebody's home folder, may be closed to others."""
    if os.geteuid():
        return False
    return not subprocess.run(
        [*BECOME, sys.executable, "-c", ""], capture_output=True, check=False
    ).returncode


becomes_a_user = pytest.mark.skipif(not _can_become(), reason="becomes a user who can run this interpreter")
