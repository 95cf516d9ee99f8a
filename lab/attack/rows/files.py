"""Attacks on files: by the daemon's user, if it was taken over, and by another user, on root's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.attack.attack import Attack, Result
from lab.attack.stage import NODE_FOR_ATTACKER, Stage
from lab.process import until
from lab.sides import Side
from nconnect.crypto.keys import Identity
from nconnect.io.files.paths import issued_path
from nconnect.io.files.user import daemon_account

SEED_RPC = f"http://{NODE_FOR_ATTACKER}:30003"
SECRET = "only root may read this"
OTHER_USER = 12345
SWAP_S = 20.0  # at most; the swapper is ended before
# Replaces argv[1] by a link to argv[2] and by the real file in turn, as fast as it can.
SWAPPER = """
import os, sys, time
path, target, end = sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3])
kept, link = path + ".kept", path + ".link"
os.rename(path, kept)
while time.monotonic() < end:
    for make in (lambda: os.symlink(target, link), lambda: os.link(kept, link)):
        try:
            make(); os.replace(link, path)
        except OSError:
            pass
"""


@dataclass(frozen=True, slots=True)
class Local:
    """An installation on the attacker's machine, a file of root's, and the attacker."""

    side: Side
    treasure: Path
    uid: int

    @property
    def state(self) -> Path:
        return Path(self.side.env["NCONNECT_STATE_DIR"], self.side.interface)

    def treasure_is_touched(self) -> str:
        status = self.treasure.lstat()
        if (status.st_uid, status.st_mode & 0o777) != (0, 0o600):
            return "root gave its file away"
        return "" if self.treasure.read_text() == SECRET else "root wrote to its file"

    def as_attacker(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            user=self.uid,
            group=self.uid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def local(stage: Stage, name: str, uid: int | None = None) -> Iterator[Local]:
    """A configuration that has been up once. `uid`: the owner of its folder, by default root."""
    account = daemon_account()
    attacker = uid if uid is not None else (account.uid if account is not None else OTHER_USER)
    side = Side(name, stage.attacker, stage.world.folder / name, interface="nc9")
    side.config = side.folder / "conf" / "nc9.toml"
    side.nconnect("init", "--address", "10.99.0.1/24", "--seed-rpc", SEED_RPC)
    treasure = side.folder / "treasure"
    treasure.write_text(SECRET)
    treasure.chmod(0o600)
    made = Local(side, treasure, attacker)
    try:
        up_and_down(side)
        yield made
    finally:
        side.stop()


def up_and_down(side: Side) -> None:
    side.start("--keep-trying")
    until(lambda: side.listens() or not _runs(side), "the daemon")
    side.stop()


def _runs(side: Side) -> bool:
    return side.daemon is not None and side.daemon.running


def _swap(name: str, uid: int | None) -> Callable[[Stage], Result]:
    """The configuration and its seed file are swapped for links while root works with them."""

    def run(stage: Stage) -> Result:
        with local(stage, f"swap-{name}", uid) as made:
            folder = made.side.config.parent
            seed = folder / "seed"
            seed.write_text(os.urandom(32).hex())
            seed.chmod(0o600)
            text = made.side.config.read_text().splitlines()
            lines = ['seed_file = "seed"' if line.startswith("seed =") else line for line in text]
            made.side.config.write_text("\n".join(lines) + "\n")
            for path in (folder, *folder.iterdir()):
                os.chown(path, made.uid, made.uid)
            folder.chmod(0o755)
            said = ""
            for path in (seed, made.side.config):
                command = [sys.executable, "-c", SWAPPER, str(path), str(made.treasure), str(SWAP_S)]
                swapper = subprocess.Popen(command, user=made.uid, group=made.uid, extra_groups=[])
                try:
                    for command in (
                        ["peer", "add", "x", _address(), "--allowed-ips", "10.99.0.9/32"],
                        ["config", "show"],
                        ["reload"],
                        ["init", "--force", "--yes", "--address", "10.99.0.1/24"],
                    ):
                        done = made.side.try_nconnect(*command)
                        said += done.stdout + done.stderr
                    up_and_down(made.side)
                finally:
                    swapper.kill()
                    swapper.wait()
                path.with_name(f"{path.name}.kept").replace(path)
            said += made.side.logs()
            left = made.treasure_is_touched() or ("root showed its file" if SECRET in said else "")
            return Result(left, "refused, or done with the user's rights")

    return run


def _address() -> str:
    return f"x.{Identity(os.urandom(32)).public_key.hex()}"


def _link_in_the_state(stage: Stage) -> Result:
    """Every file of the daemon's, its log too, is a link to root's file."""
    with local(stage, "links") as made:
        names = {path.name for path in made.state.iterdir()} | {
            "nconnect.log",
            "host.json",
            "used-invitations.json",
        }
        for name in names:
            made.as_attacker("ln", "-sf", str(made.treasure), str(made.state / name))
        report = made.side.folder / "report.tar.gz"
        said = ""
        for command in (
            ["logs"],
            ["doctor", "--report", str(report)],
            ["invite", "list"],
            ["peer", "list"],
            ["down"],
        ):
            done = made.side.try_nconnect(*command)
            said += done.stdout + done.stderr
        up_and_down(made.side)
        if report.exists():
            said += subprocess.run(
                ["tar", "-xzOf", report], capture_output=True, text=True, check=False
            ).stdout
        return Result(
            made.treasure_is_touched() or ("root showed its file" if SECRET in said else ""), "not followed"
        )


def _take_the_folder(stage: Stage) -> Result:
    """A configuration alone in a folder, as once made the daemon take that folder."""
    with local(stage, "alone") as made:
        changed = [str(path) for path in (made.side.config, made.side.config.parent) if path.stat().st_uid]
        return Result(f"{', '.join(changed)} changed hands" if changed else "", "its owner's, as before")


def _take_the_run_folder(stage: Stage) -> Result:
    """The daemon's user removes another daemon's socket and lock, and puts its own there."""
    with local(stage, "run") as made:
        made.side.start("--keep-trying")
        until(made.side.listens, "the daemon", process=made.side.daemon)
        run = Path(made.side.env["NCONNECT_RUN_DIR"])
        for name in ("nc9.sock", "nc9.lock", "nc8.sock"):
            made.as_attacker("ln", "-sf", str(made.treasure), str(run / name))
            made.as_attacker("rm", "-f", str(run / name))
        left = sorted(path.name for path in run.iterdir())
        well = left == ["nc9.lock", "nc9.sock"] and made.side.listens()
        return Result("" if well else f"the folder has {left}", "permission denied")


def _forge_a_peer(stage: Stage) -> Result:
    """The daemon's user writes a peer that nobody invited, and widens one that was."""
    with local(stage, "forged") as made:
        made.side.nconnect("invite", "guest", "--allow", "10.99.0.1:80/tcp")
        issued = made.side.folder / "state" / issued_path("nc9").relative_to(issued_path("nc9").parent.parent)
        (invitation,) = json.loads(issued.read_text())["invitations"]
        used = {
            "device": _address(), "is_added": True, "is_over": True, "used_at": invitation["made_at"],
            "allowed_ips": ["10.99.0.7/32"], "preshared_key": None, "allow": None, "changes": {"allow": None},
        }  # fmt: skip
        wide = {**used, "allowed_ips": ["0.0.0.0/0"]}
        for content in (
            [{**used, "id": "00" * 8}, {**used, "id": invitation["id"]}],
            [{**wide, "id": invitation["id"]}],
        ):
            forged = made.side.folder / "forged.json"
            forged.write_text(json.dumps({"version": 2, "used": content}))
            forged.chmod(0o644)
            made.as_attacker("cp", str(forged), str(made.state / "used-invitations.json"))
            made.as_attacker("cp", str(forged), str(made.state / "invitations.json"))
            made.as_attacker("cp", str(forged), str(issued))
            peers = json.loads(made.side.nconnect("peer", "list", "--json"))["peers"]
            beyond = [
                peer
                for peer in peers
                if peer["allow"] != ["10.99.0.1:80/tcp"] or peer["allowed_ips"] != ["10.99.0.7/32"]
            ]
            if beyond or len(peers) > 1:
                return Result(f"it is a peer: {beyond or peers}")
        return Result("", "no more than was issued")


ROWS: tuple[Attack, ...] = (
    Attack("local", "swap_daemons", "links for configuration and seed", _swap("daemon", None), "B1", 120),
    Attack("local", "swap_home", "the same in a user's home", _swap("home", OTHER_USER), "B2", 120),
    Attack("local", "link_in_the_state", "links for the log and the state", _link_in_the_state, "B3"),
    Attack("local", "lonely_folder", "a configuration alone in a folder", _take_the_folder, "B4"),
    Attack("local", "run_folder", "others' sockets and locks", _take_the_run_folder, "B5"),
    Attack("local", "forged_peer", "a peer that nobody invited", _forge_a_peer, ""),
)
