"""Giving up capabilities: what is left in each thread, and that nothing brings it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

CAP_NET_RAW, CAP_NET_ADMIN = 13, 12
REPORT = """
import json, os, resource, socket, subprocess, sys, threading
from nconnect.io.process.privileges import drop_privileges
*words, user = sys.argv[1:]
keep = [int(text) for text in words]
drop_privileges(keep, user=(int(user), int(user)) if user else None)
drop_privileges(keep)  # harmless
started, ended = threading.Event(), threading.Event()
def run():
    started.set(); ended.wait()
thread = threading.Thread(target=run); thread.start(); started.wait()
def fields(task):
    with open(f"/proc/self/task/{task}/status") as status:
        return dict(line.rstrip("\\n").split(":\\t", 1) for line in status if ":\\t" in line)
tasks = [fields(task) for task in os.listdir("/proc/self/task")]
ended.set(); thread.join()
def tries(what):
    try:
        what()
    except PermissionError:
        return "refused"
    return "done"
raw = lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
print(json.dumps({
    "tasks": tasks,
    "raw": tries(raw),
    "chroot": tries(lambda: os.chroot("/")),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "child": os.popen("grep CapEff /proc/self/status").read().split()[-1],
}))
"""


def report(*keep: int, user: int | None = None) -> dict[str, Any]:
    arguments = [sys.executable, "-c", REPORT, *map(str, keep), "" if user is None else str(user)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_is_kept_in_any_thread() -> None:
    said = report()
    assert len(said["tasks"]) == 2
    for task in said["tasks"]:
        assert [int(task[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0, 0, 0, 0]
        assert task["NoNewPrivs"] == "1"
    assert (said["raw"], said["chroot"], said["core"]) == ("refused", "refused", [0, 0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_program_that_root_starts_gets_none_back() -> None:
    said = report()
    assert all(int(task["CapBnd"], 16) == 0 for task in said["tasks"])
    assert int(said["child"], 16) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_is_named_is_kept_and_no_more() -> None:
    said = report(CAP_NET_RAW)
    for task in said["tasks"]:
        assert [int(task[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [1 << CAP_NET_RAW] * 3
    assert (said["raw"], said["chroot"]) == ("done", "refused")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user_keeps_what_is_named_and_so_do_its_programs() -> None:
    said = report(CAP_NET_ADMIN, user=54321)
    for task in said["tasks"]:
        assert task["Uid"].split() == task["Gid"].split() == ["54321"] * 4
        assert task["Groups"].split() == []
        sets = ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")
        assert [int(task[name], 16) for name in sets] == [1 << CAP_NET_ADMIN] * 5
        assert task["NoNewPrivs"] == "1"
    assert int(said["child"], 16) == 1 << CAP_NET_ADMIN
    assert (said["raw"], said["chroot"], said["core"]) == ("refused", "refused", [0, 0])
