"""What the machine does to a daemon (full disks, removed files, other firewalls) is repaired, or reported.

user ── node ── provider ── server

Each test has machines of its own. Full and read-only file systems are tmpfs and bind mounts in the daemon's
own mount namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.process import until
from lab.sides import Side
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, pings, reaches, serve
from lab.world import PROVIDER_PEER, SERVER, World

OTHER = "other.3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
NEW_PEER = ("peer", "add", "other", OTHER, "--allowed-ips", "10.86.0.9/32")


def in_own_mounts(commands: str) -> list[str]:
    """The start of a command line: runs these commands, then the rest, in its own mount namespace."""
    return ["unshare", "-m", "--propagation", "private", "sh", "-ec", f'{commands}; exec "$@"', "sh"]


def small(folder: Path) -> str:
    """Commands that put a disk of 1 MiB in place of the folder, with its content."""
    mount = f"mount -t tmpfs -o size=1m none {folder}"
    return f"cp -a {folder} {folder}.kept; {mount}; cp -a {folder}.kept/. {folder}; rm -r {folder}.kept"


def full(folder: Path) -> str:
    """The same, and fill the disk."""
    return f"{small(folder)}; ! cat /dev/zero >{folder}/filler 2>/dev/null"


def read_only(folder: Path) -> str:
    return f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"


def state_of(side: Side) -> Path:
    folder = Path(side.env["NCONNECT_STATE_DIR"], side.interface)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def seen_by(side: Side, path: Path) -> Path:
    """A path as the daemon sees it, with its mounts."""
    assert side.daemon is not None
    return Path(f"/proc/{side.daemon.pid}/root", path.relative_to("/"))


def said(side: Side) -> str:
    return "\n".join(side.status()["problems"])


def doctor(side: Side, *options: str, prefix: Sequence[str] = ()) -> str:
    """The findings of the doctor that are not good."""
    done = side.namespace.run([*prefix, *side.command("doctor", "--json", *options)], env=side.env)
    assert done.returncode in (0, 1), done.stderr
    findings = json.loads(done.stdout)["findings"]
    return "\n".join(f"{f['check']}: {f['text']} -> {f['mend']}" for f in findings if f["level"] != "ok")


def prepare(world: World, *, provider: Sequence[str] = ()) -> None:
    serve(world.server, world, SERVICE)
    world.configure()
    world.node.start()
    world.provider_side.start(prefix=provider)
    world.provider_side.wait()
    world.user_side.start()
    world.user_side.wait(PROVIDER_PEER)
    assert pings(world.user, SERVER)


def test_a_disk_that_fills_up_is_reported(fresh: World) -> None:
    side = fresh.provider_side
    prepare(fresh, provider=in_own_mounts(small(state_of(side))))
    filler = seen_by(side, state_of(side) / "filler")
    done = fresh.provider.run(["sh", "-c", f"cat /dev/zero >{filler}"])
    assert "No space left" in done.stderr
    fresh.user_side.down()
    fresh.user_side.start()
    fresh.user_side.wait(PROVIDER_PEER)
    assert reaches(fresh.user, SERVER, SERVICE), "the tunnel goes on"
    until(lambda: "no space left" in said(side), "the status to say it")
    assert "no space left" in doctor(side)
    fresh.provider.ip("link del nc0")
    until(lambda: pings(fresh.user, SERVER), "a repair without a disk")
    filler.unlink()
    until(lambda: said(side) == "", "the state to be written once there is room", timeout_s=15)


def test_with_a_full_disk_the_daemon_starts(fresh: World) -> None:
    """It starts all the same: the tunnel may be the only way for somebody who has to make room."""
    side = fresh.provider_side
    before = snapshot(fresh.provider)
    prefix = in_own_mounts(full(state_of(side)))
    prepare(fresh, provider=prefix)
    assert "host.json: no space left" in said(side).lower()
    assert reaches(fresh.user, SERVER, SERVICE)
    assert "state: " in doctor(side, prefix=prefix)
    side.down()
    assert differences(before, snapshot(fresh.provider)) == [], "it knows what to restore, in its memory"


def test_a_configuration_on_a_full_disk_stays_as_it_is(fresh: World) -> None:
    prepare(fresh)
    side = fresh.provider_side
    text = side.config.read_text()
    prefix = in_own_mounts(full(side.config.parent))
    done = side.namespace.run([*prefix, *side.command(*NEW_PEER)], env=side.env)
    assert done.returncode == 1
    assert "no space left" in done.stderr.lower()
    assert len(done.stderr.strip().splitlines()) == 1
    assert "config: " in doctor(side, prefix=prefix)
    assert side.config.read_text() == text
    assert pings(fresh.user, SERVER)


def test_a_read_only_configuration_is_reported(fresh: World) -> None:
    side = fresh.provider_side
    fresh.configure()
    serve(fresh.server, fresh, SERVICE)
    fresh.node.start()
    prefix = in_own_mounts(read_only(side.config))
    side.start(prefix=prefix)
    side.wait()
    fresh.user_side.start()
    fresh.user_side.wait(PROVIDER_PEER)
    assert reaches(fresh.user, SERVER, SERVICE), "it runs all the same"
    folder = in_own_mounts(read_only(side.config.parent))
    done = side.namespace.run([*folder, *side.command(*NEW_PEER)], env=side.env)
    assert done.returncode == 1
    assert "read-only file system" in done.stderr.lower()
    assert len(done.stderr.strip().splitlines()) == 1
    assert "config: " in doctor(side, prefix=folder)
    side.down()


@pytest.mark.parametrize("what", ["nc0.sock", "nc0.lock", ""])
def test_removed_files_are_made_again(fresh: World, what: str) -> None:
    prepare(fresh)
    side = fresh.user_side
    folder = Path(side.env["NCONNECT_RUN_DIR"])
    if what:
        (folder / what).unlink()
    else:
        remove(folder)
    until(lambda: has_its_files(folder), "both files")
    side.wait(PROVIDER_PEER)
    assert pings(fresh.user, SERVER)
    side.down()
    assert not set(folder.iterdir())


def remove(folder: Path) -> None:
    """Remove the folder in one step, so that the daemon cannot make a file again meanwhile."""
    shutil.rmtree(folder.rename(folder.with_name("removed")))


def has_its_files(folder: Path) -> bool:
    return (folder / "nc0.sock").exists() and (folder / "nc0.lock").exists()


def test_a_folder_that_cannot_be_made_again_is_named(fresh: World) -> None:
    """A daemon without its helper cannot make it. Every command says what is wrong, and breaks nothing."""
    side = fresh.user_side
    folder = fresh.folder / "run"  # as /run/nconnect, whose parent belongs to root
    side.env["NCONNECT_RUN_DIR"] = str(folder)
    serve(fresh.server, fresh, SERVICE)
    fresh.configure()
    fresh.node.start()
    fresh.provider_side.start()
    fresh.provider_side.wait()
    daemon = side.start()
    until(lambda: has_its_files(folder), "both files", process=daemon)
    side.nconnect("wait", PROVIDER_PEER, "--timeout", "15")
    before = snapshot(fresh.user)
    (helper,) = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    os.kill(int(helper), signal.SIGKILL)
    remove(folder)
    for command in (("status",), ("down",), ("wait", "--timeout", "1")):
        done = side.namespace.run(side.command(*command), env=side.env)
        assert done.returncode == 1
        assert "doctor --fix" in done.stderr
    assert "removed its control socket" in doctor(side)
    assert differences(before, snapshot(fresh.user)) == []
    assert pings(fresh.user, SERVER)
    assert "helper process" in daemon.text()
    assert daemon.stop() == 0


def drop_forwarded(world: World, family: str) -> None:
    for rule in (
        f"add table {family} other",
        f"add chain {family} other forward {{ type filter hook forward priority 0; policy drop; }}",
    ):
        assert world.provider.run(["nft", rule]).returncode == 0


def test_another_firewall_that_drops_is_reported(fresh: World) -> None:
    prepare(fresh)
    side = fresh.provider_side
    assert said(side) == ""
    drop_forwarded(fresh, "inet")
    assert not reaches(fresh.user, SERVER, SERVICE), "the control: it does drop"
    until(lambda: "inet other forward" in said(side), "the status to say it", timeout_s=15)
    assert "inet other forward" in doctor(side)
    fresh.provider.run(["nft", "delete", "table", "inet", "other"])
    until(lambda: said(side) == "", "the status to see that it went", timeout_s=20)
    assert reaches(fresh.user, SERVER, SERVICE)


def test_a_firewall_that_drops_before_the_start_is_reported(fresh: World) -> None:
    drop_forwarded(fresh, "ip")
    fresh.configure()
    fresh.node.start()
    fresh.provider_side.start()
    fresh.provider_side.wait()
    until(lambda: "ip other forward" in said(fresh.provider_side), "the status to say it")
