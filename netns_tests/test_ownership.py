"""Files keep their owners, and what the daemon's user writes leads root nowhere.

user ── node ── provider

One world for all tests: the node runs, each test starts the daemons.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.process import until
from lab.sides import Side
from lab.world import PROVIDER_PEER, USER_PEER, World, world
from nconnect.io.files.user import daemon_account
from netns_tests.test_surroundings import in_own_mounts

THEM = 12345
WITHOUT_THE_USER = in_own_mounts(
    "grep -v ^nconnect: /etc/passwd > /run/pw.$$; mount --bind /run/pw.$$ /etc/passwd; rm /run/pw.$$"
)


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world("ncown") as made:
        made.configure()
        made.node.start()
        yield made


@pytest.fixture
def provider(shared: World) -> Iterator[Side]:
    """The provider, with its configuration in a folder of its own."""
    side = shared.provider_side
    before = side.config
    side.config = side.folder / "conf" / "nc0.toml"
    side.config.parent.mkdir(mode=0o755)
    side.config.write_text(before.read_text())
    side.config.chmod(0o600)
    (side.config.parent / "notes.txt").write_text("other things lie here too")
    yield side
    shared.user_side.stop()
    side.stop()
    subprocess.run(["rm", "-r", side.config.parent], check=True)
    side.config = before


def uids(side: Side) -> set[int]:
    assert side.daemon is not None
    fields = Path(f"/proc/{side.daemon.pid}/status").read_text().splitlines()
    return set(map(int, next(line for line in fields if line.startswith("Uid:")).split()[1:]))


def daemons_user() -> int:
    account = daemon_account()
    return 0 if account is None else account.uid


def owned(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_mode & 0o7777


def allowed(side: Side) -> object:
    """The rules in force about what the peer may reach."""
    found = {peer["name"]: peer for peer in side.status()["peers"]}
    return found[USER_PEER]["allow"]


@pytest.mark.parametrize("owner", [0, THEM])
def test_a_configuration_anywhere_keeps_its_owner_and_everything_works(provider: Side, owner: int) -> None:
    """In a folder of root's or another user's, with other files, that the daemon's user cannot enter."""
    folder = provider.config.parent
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner, owner)
    folder.chmod(0o700)
    before = {path: owned(path) for path in (folder, *folder.iterdir())}
    provider.start()
    provider.wait()
    assert uids(provider) == {daemons_user()}
    provider.nconnect("peer", "set", USER_PEER, "--allow", "none")
    assert allowed(provider) == []
    for number, reload in enumerate(
        (
            lambda: provider.nconnect("reload"),
            provider.control.reload,
            lambda: os.kill(provider.daemon.pid, signal.SIGHUP),  # type: ignore[union-attr]
        )
    ):
        rule = f"192.168.50.{number}/icmp"
        text = provider.config.read_text()
        start = text.index("allow = [")
        provider.config.write_text(text[:start] + f'allow = ["{rule}"]' + text[text.index("]", start) + 1 :])
        reload()
        until(lambda rule=rule: allowed(provider) == [rule], "the new rule")
    provider.nconnect("provide", "add", "--service", "9/udp")
    assert {path: owned(path) for path in (folder, *folder.iterdir())} == before
    provider.down()


def test_with_a_read_only_configuration_a_device_can_join(provider: Side, shared: World) -> None:
    """An invited device still joins: it is kept in the state, and listed with the others."""
    folder = provider.config.parent
    provider.start(prefix=in_own_mounts(f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"))
    provider.wait()
    text = provider.config.read_text()
    token = json.loads(provider.nconnect("invite", "second", "--allow", "192.168.50.10/icmp", "--json"))[
        "token"
    ]
    second = Side("second", shared.user, shared.folder / "second", interface="nc1")
    second.nconnect("join", token)
    assert provider.config.read_text() == text
    peers = {p["name"]: p for p in json.loads(provider.nconnect("peer", "list", "--json"))["peers"]}
    assert (peers["second"]["invited"], peers[USER_PEER]["invited"]) == (True, False)
    provider.nconnect("peer", "set", "second", "--allow", "none")
    found = {peer["name"]: peer for peer in provider.status()["peers"]}
    assert found["second"]["allow"] == []
    provider.down()
    provider.start()
    provider.wait()
    assert {peer["name"] for peer in provider.status()["peers"]} == {USER_PEER, "second"}, "kept"
    provider.nconnect("peer", "remove", "second")
    assert {peer["name"] for peer in provider.status()["peers"]} == {USER_PEER}
    provider.down()


def test_an_installation_of_an_earlier_version_is_carried_over(provider: Side, shared: World) -> None:
    """In that version the daemon's user owned configuration, sockets and invitations."""
    user = daemons_user()
    state = Path(provider.env["NCONNECT_STATE_DIR"])
    run = Path(provider.env["NCONNECT_RUN_DIR"])
    provider.nconnect("invite", "later")
    issued = state / "issued-invitations" / "nc0.json"
    old = [
        {**entry, "device": "", "is_added": False, "used_at": None}
        for entry in json.loads(issued.read_text())["invitations"]
        if entry["name"] == "later"
    ]
    subprocess.run(["rm", "-r", issued.parent, state / "nc0"], check=True)
    (state / "nc0").mkdir(mode=0o700)
    (state / "nc0" / "invitations.json").write_text(json.dumps({"version": 1, "invitations": old}))
    run.mkdir(exist_ok=True)
    run.chmod(0o775)
    folder = provider.config.parent
    (folder / "notes.txt").unlink()
    for path in (folder, provider.config, run, state / "nc0", state / "nc0" / "invitations.json"):
        os.chown(path, user, 0)
    text = provider.config.read_text()
    provider.start()
    provider.wait()
    assert uids(provider) == {user}
    assert (owned(folder)[0], owned(provider.config), owned(run)) == (0, (0, 0o600), (0, 0o755))
    assert provider.config.read_text() == text
    assert {peer["name"] for peer in provider.status()["peers"]} == {USER_PEER}
    listed = json.loads(provider.nconnect("invite", "list", "--json"))["invitations"]
    assert [(each["name"], each["state"]) for each in listed] == [("later", "open")]
    assert not (state / "nc0" / "invitations.json").exists()
    provider.nconnect("invite", "revoke", "later")
    provider.down()


def test_links_in_the_state_lead_root_nowhere(provider: Side) -> None:
    """The daemon's user replaces its files with links to a file of root's; root then runs every command."""
    if not daemons_user():
        pytest.skip("there is no user nconnect")
    provider.start()
    provider.wait()
    provider.down()
    secret = provider.folder / "secret"
    secret.write_text("top secret of root")
    secret.chmod(0o600)
    state = Path(provider.env["NCONNECT_STATE_DIR"]) / provider.interface
    names = {path.name for path in state.iterdir()} | {
        "nconnect.log",
        "host.json",
        "used-invitations.json",
        "tls.pem",
    }
    for name in names:
        (state / name).unlink(missing_ok=True)
        (state / name).symlink_to(secret)
    said = ""
    report = provider.folder / "report.tar.gz"
    for command in (
        ["logs"], ["doctor", "--report", str(report)], ["peer", "list"], ["invite", "list"], ["invite", "x"],
        ["up", "-d"], ["down"], ["config", "check"],
    ):  # fmt: skip
        done = provider.try_nconnect(*command)
        said += done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    provider.start()
    provider.try_nconnect("down")
    provider.stop()
    assert "top secret" not in said
    listed = subprocess.run(["tar", "-xzOf", report], capture_output=True, check=True)
    assert b"top secret" not in listed.stdout
    assert (secret.read_text(), *owned(secret)) == ("top secret of root", 0, 0o600)
    for name in names:
        (state / name).unlink(missing_ok=True)
    report.unlink()


def test_daemons_of_different_rights_run_side_by_side(provider: Side, shared: World) -> None:
    """One runs as the daemon's user, one has to stay root; they share the folder of sockets."""
    other = Side("other", shared.provider, provider.folder / "other", interface="nc1")
    other.env["NCONNECT_RUN_DIR"] = provider.env["NCONNECT_RUN_DIR"]
    other.nconnect("init", "--address", "10.99.0.1/24", "--seed-rpc", "http://192.0.2.1:30003")
    for first, second in ((provider, other), (other, provider)):
        for side in (first, second):
            side.start(prefix=WITHOUT_THE_USER if side is other else ())
            side.wait()
        assert (uids(provider), uids(other)) == ({daemons_user()}, {0})
        run = Path(provider.env["NCONNECT_RUN_DIR"])
        assert owned(run) == (0, 0o755)
        first.down()
        assert second.status()["interface"] == second.interface
        second.down()
        assert list(run.iterdir()) == []


def test_what_is_removed_from_the_folder_of_sockets_comes_back(provider: Side) -> None:
    provider.start()
    provider.wait()
    run = Path(provider.env["NCONNECT_RUN_DIR"])
    # The daemon may be quicker than `rm`, which then finds a folder that is not empty.
    until(lambda: subprocess.run(["rm", "-r", run]).returncode == 0, "the folder's end")
    until(provider.listens, "the control socket")
    assert owned(run) == (0, 0o755)
    provider.down()


def test_a_killed_daemon_leaves_no_helper(provider: Side) -> None:
    provider.start()
    provider.wait()
    assert provider.daemon is not None
    tasks = Path(f"/proc/{provider.daemon.pid}/task/{provider.daemon.pid}/children")
    (helper,) = tasks.read_text().split()
    status = Path(f"/proc/{helper}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    provider.daemon.kill()
    until(lambda: not Path(f"/proc/{helper}").exists(), "the helper's end")
    assert "what a killed daemon had left is removed" in provider.nconnect("down")


def test_in_a_user_namespace_the_daemon_has_one_capability(provider: Side) -> None:
    """There is no user nconnect to become: the daemon stays root, with one capability."""
    namespace = ["unshare", "-Urn"]
    state = {"NCONNECT_STATE_DIR": str(provider.folder / "namespace")}
    provider.start("--keep-trying", prefix=namespace, env=state)
    until(provider.listens, "the control socket", process=provider.daemon)
    assert provider.status()["interface"] == "nc0"
    provider.stop()
    assert "this user namespace does not have that user" in provider.logs()
    theirs = provider.folder / "theirs"
    (theirs / "nc0").mkdir(mode=0o700, parents=True)
    os.chown(theirs / "nc0", THEM, THEM)
    daemon = provider.start(prefix=namespace, env={"NCONNECT_STATE_DIR": str(theirs)})
    assert daemon.wait(20) == 1
    assert "permission denied" in provider.logs()
    assert "Traceback" not in provider.logs()


def test_a_peer_of_a_provider_is_up(provider: Side, shared: World) -> None:
    """The control: with this configuration a tunnel comes up."""
    provider.start()
    provider.wait()
    shared.user_side.start()
    shared.user_side.wait(PROVIDER_PEER)
