"""Gathering the facts that `nconnect.doctor` judges. Looks, and changes nothing; every look has an end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from stat import S_ISLNK

from nconnect.config.proxy import UNPROXIED, Proxies, of_config
from nconnect.doctor.facts import Facts, ProxyFact
from nconnect.doctor.findings import Argv
from nconnect.errors import (
    ConfigError,
    HostError,
    NconnectError,
)
from nconnect.host import plan as planning
from nconnect.host.ruleset import table_name
from nconnect.invite.table import PeerTable
from nconnect.io.doctor_network import with_network
from nconnect.io.errors import reason
from nconnect.io.files import paths, peer_table
from nconnect.io.files.state import StateStore
from nconnect.io.files.trusted import Folder, set_mode, status_of
from nconnect.io.system import nftables, sysctl
from nconnect.io.system.host import Host
from nconnect.io.system.surroundings import PROGRAM_S, detours, stopped
from nconnect.model import Config, Endpoint
from nconnect.offers import kept
from nconnect.offers.accept import accept
from nconnect.wire.jsonrpc import split_addr

SEED_S = 4.0
_PROBE_BYTES = 1 << 16  # above any usual configuration, which is replaced as a whole


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """What the command line has found out already, or was told."""

    net_admin: bool
    no_namespaces: str  # why an ordinary user's tunnel cannot be; "" when it can, or for root
    tun: str = ""
    nft: str = ""
    released_at: float = 0.0
    hosts: Sequence[str] = ()  # of provided subnets, to be asked first
    seed_s: float = SEED_S
    said: Sequence[str] = ()  # by the running daemon's `status`
    nodes: Sequence[str] = ()  # HOST:PORT of those that its links have, "" for none
    direct_port: int = 0  # of the running daemon
    peers: Sequence[tuple[str, str]] = ()  # name and state of each, as it says
    unreachable: bool = False  # a daemon runs without its control socket


def gather(path: Path, interface: str, machine: ThisMachine, *, is_running: Callable[[], bool]) -> Facts:
    """All facts about one interface. Never raises for what it finds wrong: that is a fact too."""
    facts = Facts(
        interface=interface,
        path=str(path),
        is_root=os.geteuid() == 0,
        net_admin=machine.net_admin,
        no_namespaces=machine.no_namespaces,
        in_container=_in_container(),
        tun=machine.tun,
        tun_module="does not exist" in machine.tun or "no TUN driver" in machine.tun,
        nft=machine.nft,
        running=is_running(),
        now=time.time(),
        released_at=machine.released_at,
        said=tuple(machine.said),
        peers=tuple(machine.peers),
        direct_port=machine.direct_port,
        unreachable=_folder_again() if machine.unreachable else (),
    )
    facts = _with_config(facts, path)
    if not facts.nft and facts.net_admin:
        facts = _with_rules_of_ours(facts)
    facts = replace(facts, sysctls=_sysctls(interface))
    if facts.config is None:
        return facts
    config = facts.config
    try:
        proxies = of_config(config, os.environ)
    except ConfigError as error:
        proxies = UNPROXIED
        facts = replace(facts, proxies=(ProxyFact("", "the environment", used=True, why=str(error)),))
    facts = _with_detours(_with_plan(facts, config, proxies), config)
    facts = asyncio.run(with_network(facts, config, proxies, hosts=machine.hosts, seed_s=machine.seed_s))
    return (
        _with_firewalls(facts, config, proxies, machine.nodes) if not facts.nft and facts.net_admin else facts
    )


def run_fix(command: Argv) -> str:
    """Run one fix; "" when it worked, else why not, one line."""
    if command[0] == "chmod":  # a file whose folder may be another user's: the program follows links
        try:
            set_mode(Path(command[2]), int(command[1], 8))
        except OSError as error:
            return reason(error)
        return ""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROGRAM_S * 3,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    said = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else (said[-1] if said else f"it ended with status {done.returncode}")


def _with_config(facts: Facts, path: Path) -> Facts:
    try:
        status = status_of(path)
        if status is not None and status.st_mode & 0o077 and not S_ISLNK(status.st_mode):
            facts = replace(facts, config_readable_by_others=True)
    except OSError:
        pass
    facts = replace(
        facts,
        config_unwritable=_unwritable(path.parent),
        state_unwritable=_unwritable(paths.state_dir(facts.interface)),
    )
    try:
        return replace(facts, config=_as_seen(peer_table.load(path)))
    except ConfigError as error:
        return replace(facts, config_problems=error.problems)


def _as_seen(table: PeerTable) -> Config:
    """The configuration as the daemon puts it in force: with providers' networks where they are mapped."""
    folder = paths.state_dir(table.config.interface)
    try:
        seen = Host(table.config.interface, folder).read_facts()
        stored = StateStore(folder).load(kept.STORED)
    except HostError:
        return table.config  # no right to look: said elsewhere
    decided, offered = kept.read(stored)
    return accept(table.config, seen, offered, decided, table.invited).config


def _unwritable(folder: Path) -> str:
    """Why a folder takes no file, tried with one; "" when it does, or may not be asked."""
    try:
        with Folder.open(folder) as opened:
            opened.probe(_PROBE_BYTES)
    except (FileNotFoundError, PermissionError):
        return ""  # it does not exist yet, or we are not root, which is said elsewhere
    except OSError as error:
        return reason(error)
    return ""


def _folder_again() -> Argv:
    """What makes the run folder; the daemon's helper makes the rest in it."""
    return ("install", "-d", "-m", "0755", str(paths.run_dir()))


def _with_rules_of_ours(facts: Facts) -> Facts:
    try:
        has_table = table_name(facts.interface) in nftables.tables()
    except HostError as error:
        return replace(facts, nft=str(error))
    dead = not facts.running and not _is_locked(facts.interface) and not facts.unreachable
    return replace(facts, left_behind=has_table and dead)


def _with_firewalls(facts: Facts, config: Config, proxies: Proxies, nodes: Iterable[str]) -> Facts:
    spoken_to = _endpoints([*nodes, *(seed.node for seed in facts.seeds)], proxies)
    try:
        port = facts.direct_port
        return replace(facts, obstacles=stopped(config, spoken_to, proxies=proxies, direct_port=port))
    except HostError as error:
        return replace(facts, nft=str(error))


def _endpoints(nodes: Iterable[str], proxies: Proxies) -> list[Endpoint]:
    """Those that have an address, and are reached without a proxy."""
    found = []
    for node in nodes:
        try:
            host, port = split_addr(node)
            found += [] if proxies.to(host, port) else [Endpoint(ip_address(host), port)]
        except (NconnectError, ValueError):
            continue  # a name, or none
    return found


def _is_locked(interface: str) -> bool:
    try:
        return paths.is_locked(interface)
    except HostError:
        return True  # somebody else's: then nothing can be said


def _with_plan(facts: Facts, config: Config, proxies: Proxies) -> Facts:
    try:
        seen = Host(config.interface, paths.state_dir(config.interface)).read_facts()
    except HostError:
        return facts  # no right to look: said elsewhere
    made = planning.plan(config, replace(seen, proxies=proxies))
    problem = ""
    locked = []
    if seen.sysctls_locked:
        for name, value in (*made.state.sysctls, *made.state.device_sysctls):
            settable = sysctl.for_new_devices(name)
            if sysctl.read(settable) != value:
                locked.append((settable.replace("/", "."), value))
    if not facts.running:
        try:
            planning.refuse_taken_addresses(config, seen)
        except HostError as error:
            problem = str(error)
    return replace(
        facts,
        skipped_routes=made.skipped_routes,
        plan_warnings=made.warnings,
        plan_notes=made.notes,
        locked_sysctls=tuple(locked),
        plan_problem=problem,
    )


def _with_detours(facts: Facts, config: Config) -> Facts:
    if not facts.running:
        return facts
    try:
        return replace(facts, detours=tuple(detours(config)[0]))
    except HostError:
        return facts


def _sysctls(interface: str) -> dict[str, str]:
    names = [planning.IP_FORWARD, planning.IPV6_FORWARDING]
    names += [f"net/ipv4/conf/{where}/rp_filter" for where in ("all", interface)]
    return {name: value for name in names if (value := sysctl.read(name)) is not None}


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "container" in os.environ
