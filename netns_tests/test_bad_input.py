"""Every refusal is one clear line, with exit status 1 or 2, and leaves the machine as it was.

user ── node (while a test wants it) ── provider
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from lab.sides import Side
from lab.snapshot import differences, snapshot
from lab.world import PROVIDER_PEER, World, world

# A valid key: the public one of the seed that is all zeros.
OTHER = "other.3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


@pytest.fixture(scope="module")
def machines() -> Iterator[World]:
    """Both sides are configured, the node runs, no daemon does. Each test must leave it like that."""
    with world("ncbad") as made:
        made.configure()
        made.node.start()
        yield made


@pytest.fixture
def side(machines: World) -> Iterator[Side]:
    """The user's side. After the test its configuration is restored, and its machine must be as before."""
    found = machines.user_side
    text = found.config.read_text()
    before = snapshot(found.namespace)
    yield found
    found.stop()
    found.config.unlink(missing_ok=True)
    found.config.write_text(text)
    found.config.chmod(0o600)
    assert differences(before, snapshot(found.namespace)) == []
    assert not list((found.folder / "run").glob("*.sock"))


def refused(done: subprocess.CompletedProcess[str], *words: str, status: tuple[int, ...] = (1, 2)) -> None:
    """The command wrote one line on standard error that holds all of `words`, and nothing else."""
    assert done.returncode in status, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word.lower() in lines[0].lower(), lines[0]
    assert done.stdout == ""


def edited(side: Side, old: str, new: str) -> None:
    text = side.config.read_text()
    assert old in text
    side.config.write_text(text.replace(old, new, 1))


def test_a_second_daemon_of_an_interface_is_refused(machines: World, side: Side) -> None:
    side.start()
    side.wait()
    running = snapshot(side.namespace)
    refused(side.try_nconnect("up"), "nc0", "already", status=(1,))
    assert differences(running, snapshot(side.namespace)) == []
    assert side.status()["interface"] == "nc0", "the first one goes on"
    side.down()


def test_up_ends_when_the_seed_cannot_be_reached(side: Side) -> None:
    edited(side, "http://192.0.2.1:30003", "http://192.0.2.1:31999")
    refused(side.try_nconnect("up", timeout_s=15), "192.0.2.1:31999", "--keep-trying", status=(1,))


@pytest.mark.parametrize("machine", ["user", "server"])
def test_up_ends_when_the_public_network_cannot_be_reached(machines: World, machine: str) -> None:
    """With the default seeds: the user's packets are lost on their way, the server has no route at all."""
    namespace = getattr(machines, machine)
    lost = Side("lost", namespace, machines.folder / f"lost-{machine}")
    lost.nconnect("init", "--address", "10.87.0.2/24")
    before = snapshot(namespace)
    started = time.monotonic()
    refused(lost.try_nconnect("up", timeout_s=15), "no seed named a node", "connection", status=(1,))
    assert time.monotonic() - started < 10
    assert differences(before, snapshot(namespace)) == []


def test_a_clock_that_is_far_off_is_a_warning(side: Side) -> None:
    side.start(prefix=("faketime", "2020-01-01 12:00:00"))
    side.wait()
    assert side.daemon is not None
    assert "WARNING the clock says 2020-01-01" in side.daemon.text()
    side.down()


def test_with_keep_trying_the_daemon_waits_for_a_node(machines: World, side: Side) -> None:
    machines.node.stop()
    try:
        side.start("--keep-trying")
        assert side.try_nconnect("wait", "--timeout", "1").returncode == 1
    finally:
        machines.node.start()
    side.nconnect("wait", "--timeout", "20")
    side.down()


def test_a_missing_configuration_is_refused(side: Side) -> None:
    side.config.unlink()
    refused(side.try_nconnect("up"), str(side.config), "init")


def test_an_unreadable_configuration_is_refused(side: Side) -> None:
    side.folder.chmod(0o755)
    side.folder.parent.chmod(0o755)
    done = side.namespace.run([*NOBODY, *side.command("address")], env=side.env)
    refused(done, str(side.config), "permission denied", "sudo")


def test_a_world_readable_configuration_is_refused(side: Side) -> None:
    side.config.chmod(0o644)
    refused(side.try_nconnect("up"), str(side.config), "600")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('"10.86.0.2/24"', '"10.86.0.2/33"', "10.86.0.2/33"),
        ('"10.86.0.2/24"', '"10.86.0/24"', "10.86.0/24"),
        ("[interface]\n", "[interface]\nmtu = 70000\n", "mtu"),
        ("[interface]\n", "[interface]\nmtuu = 1500\n", "mtuu"),
        ("[interface]\n", '[interface]\ncipher = "rot13"\n', "rot13"),
        ("192.168.50.0/24", "192.168.50.0/99", "192.168.50.0/99"),
        ('seed = "', 'seed = "zz', "seed"),
        ("http://192.0.2.1:30003", "http://192.0.2.1:99999", "99999"),
        ('address = "gpu-box.', 'address = "gpu-box.zz', "64 hex digits"),
        ("[interface]\n", "[interface\n", ":3:"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(side: Side, old: str, new: str, word: str) -> None:
    edited(side, old, new)
    refused(side.try_nconnect("up"), str(side.config), word)


def test_all_mistakes_are_named_at_once(side: Side) -> None:
    edited(side, "[interface]\n", '[interface]\nmtu = 70000\ncipher = "rot13"\n')
    done = side.try_nconnect("up")
    assert done.returncode in (1, 2)
    assert "mtu" in done.stderr
    assert "rot13" in done.stderr
    assert "Traceback" not in done.stderr


def test_up_without_a_tun_device_is_refused(side: Side) -> None:
    hide = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"]
    done = side.namespace.run([*hide, *side.command("up")], env=side.env)
    refused(done, "/dev/net/tun", status=(1,))


def test_a_provider_without_nft_does_not_start(machines: World) -> None:
    """Without its firewall the provider would let everything pass."""
    provider = machines.provider_side
    before = snapshot(provider.namespace)
    hide = ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /usr/sbin/nft && exec "$@"', "sh"]
    done = provider.namespace.run([*hide, *provider.command("up")], env=provider.env)
    refused(done, "nft", status=(1,))
    assert differences(before, snapshot(provider.namespace)) == []


def test_an_address_that_is_in_use_is_refused(side: Side) -> None:
    side.namespace.ip("address add 10.86.0.2/32 dev lo")
    try:
        refused(side.try_nconnect("up", timeout_s=5), "10.86.0.2", "lo", status=(1,))
    finally:
        side.namespace.ip("address del 10.86.0.2/32 dev lo")


def test_an_interface_of_another_program_is_left_alone(side: Side) -> None:
    side.namespace.ip("link add nc0 type veth peer name other")
    try:
        refused(side.try_nconnect("up"), "nc0", status=(1,))
        assert "veth" in side.namespace.ip("-d link show nc0"), "it is still there"
    finally:
        side.namespace.ip("link del nc0")


def test_peer_add_refuses_a_wrong_key(side: Side) -> None:
    text = side.config.read_text()
    done = side.try_nconnect("peer", "add", "other", "other.1234", "--allowed-ips", "10.86.0.9/32")
    refused(done, "other.1234", status=(2,))
    assert side.config.read_text() == text


def test_peer_add_refuses_a_wrong_prefix(side: Side) -> None:
    done = side.try_nconnect("peer", "add", "other", OTHER, "--allowed-ips", "10.86.0.9/40")
    refused(done, "10.86.0.9/40", status=(2,))


def test_peer_remove_refuses_an_unknown_peer(side: Side) -> None:
    refused(side.try_nconnect("peer", "remove", "nobody"), "nobody", PROVIDER_PEER)


def test_commands_without_a_daemon_say_what_to_do(side: Side) -> None:
    refused(side.try_nconnect("status"), "nconnect up", status=(1,))
    refused(side.try_nconnect("wait", "--timeout", "1"), "up", status=(1,))
    assert side.try_nconnect("down").returncode == 0, "what was asked for is so"


@pytest.mark.parametrize("arguments", [("frobnicate",), ("up", "--frobnicate"), ("peer", "add")])
def test_wrong_usage_exits_with_2(side: Side, arguments: tuple[str, ...]) -> None:
    done = side.namespace.run(side.command(*arguments)[: 1 + len(arguments)], env=side.env)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_node_at_another_machine_s_address_does_not_start(machines: World) -> None:
    command = machines.user_side.command("node", "--listen", "203.0.113.99")
    done = machines.user.run(command[: command.index("-c")], env=machines.user_side.env, timeout_s=10)
    refused(done, "203.0.113.99", "cannot assign", status=(1,))
    assert not (machines.user_side.folder / "run" / "nodes").exists()


def test_a_node_on_a_port_that_is_taken_does_not_start(machines: World) -> None:
    assert machines.node.process is not None
    command = machines.user_side.command("node", "--listen", "0.0.0.0")
    done = machines.internet.run(command[: command.index("-c")], env=machines.user_side.env, timeout_s=10)
    refused(done, "3000", status=(1,))
