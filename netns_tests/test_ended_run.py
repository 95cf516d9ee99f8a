"""A run of these tests that SIGTERM ends (as `timeout` does) leaves no namespace, process or folder behind.

this run ── pytest, a child ── its world: user ── node ── provider ── server (a program)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab import CHECKOUT
from lab.leftovers import of_lab, remove_kept
from netns_tests.conftest import FRESH_PREFIX

CHILD = """
import time
from lab.traffic import serve
from lab.world import World

def test_that_never_ends(fresh: World) -> None:
    fresh.node.start()
    serve(fresh.server, fresh, 7000)
    print("all is up", flush=True)
    time.sleep(100)
"""


def test_a_run_that_sigterm_ends_takes_its_world_back(tmp_path: Path) -> None:
    (tmp_path / "test_child.py").write_text(CHILD)
    command = [sys.executable, "-m", "pytest", "-s", "-p", "netns_tests.conftest", str(tmp_path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as child:
        marker = f"{FRESH_PREFIX}{child.pid}-"
        try:
            assert child.stdout is not None
            assert any("all is up" in line for line in child.stdout)
            kinds = {found.split()[0] for found in of_lab(marker)}
            assert kinds == {"namespace", "process", "folder"}, "the control"
            child.terminate()
            said, _ = child.communicate(timeout=30)
            assert child.returncode == 2, said
            assert of_lab(marker) == []
        finally:
            child.kill()
            child.wait()
            remove_kept(FRESH_PREFIX)
