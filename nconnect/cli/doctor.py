"""`nconnect doctor`: problems on this machine, each with the command that fixes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nconnect.cli.options import Checks, ConfigOption, JsonOption, chosen, interface_at
from nconnect.io.errors import reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nconnect.doctor.facts import Facts
    from nconnect.doctor.findings import Finding


def doctor(
    ctx: typer.Context,
    fix: Annotated[bool, typer.Option("--fix", help="Fix problems where that is safe.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Also write a bundle for a bug report, without secrets."
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="IP", help="A host of a provided subnet to check."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """Look for problems and say how to fix them.

    It checks this machine (TUN, privileges, firewalls, routes, clock), the way to each seed and node, and on
    a provider the subnets and inference servers. The exit status is 1 if something fails.
    """
    from nconnect.cli import output
    from nconnect.doctor.checks import diagnose, worst
    from nconnect.doctor.findings import Level

    path = chosen(ctx, config)
    interface = interface_at(path)
    hosts = _hosts(host)
    facts = _look(path, interface, hosts)
    findings = diagnose(facts)
    fixes = []
    if fix:
        fixes = _fix(findings, quiet=as_json)
        if fixes:
            facts = _look(path, interface, hosts)
            findings = diagnose(facts)
    failed = worst(findings) is Level.FAILURE
    written = _report(report, facts, findings, path) if report is not None else None
    if as_json:
        output.print_json(
            {
                "interface": interface,
                "ok": not failed,
                "findings": [finding.to_json() for finding in findings],
                "fixes": fixes,
                "report": None if report is None else str(report),
            }
        )
    else:
        print(text_of(findings, colour=output.use_colour(), fixed=fix))
        if written is not None:
            print(f"wrote {report}: {', '.join(written)}")
            print("secrets and your public address are removed, but look through it yourself")
    return 1 if failed else 0


def text_of(findings: Sequence[Finding], *, colour: bool = False, fixed: bool = False) -> str:
    """The findings as lines: the level, the check, the sentence; below it what to do."""
    from nconnect.doctor.findings import Level

    paint = {Level.OK: "\x1b[32m", Level.WARNING: "\x1b[33m", Level.FAILURE: "\x1b[31m"} if colour else {}
    reset = "\x1b[0m" if colour else ""
    width = max((len(f.check) for f in findings), default=0)
    lines = []
    for finding in findings:
        word = f"{paint.get(finding.level, '')}{finding.level.value:<8}{reset}"
        lines.append(f"{word} {finding.check:<{width}}  {finding.text}")
        if finding.mend:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.mend}")
    counts = [sum(f.level is level for f in findings) for level in (Level.FAILURE, Level.WARNING)]
    parts = [
        f"{n} {word}{'s' if n > 1 else ''}"
        for n, word in zip(counts, ("failure", "warning"), strict=True)
        if n
    ]
    lines += ["", ", ".join(parts) if parts else "nothing is wrong"]
    if not fixed and any(f.fix for f in findings):
        lines[-1] += "; `nconnect doctor --fix` fixes " + ", ".join(
            dict.fromkeys(f.check for f in findings if f.fix)
        )
    return "\n".join(lines)


def _hosts(given: list[str] | None) -> tuple[str, ...]:
    from ipaddress import ip_address

    from nconnect.errors import ConfigError

    def check(text: str) -> None:
        try:
            ip_address(text)
        except ValueError:
            raise ConfigError(
                f"{text!r} is not an address: write a host of a provided subnet, such as 192.168.50.10"
            ) from None

    checks = Checks()
    found = checks.many("--host", given, check)
    checks.finish()
    return found


def _look(path: Path, interface: str, hosts: tuple[str, ...]) -> Facts:
    import os
    from functools import partial

    from nconnect.cli import preflight
    from nconnect.control.client import ControlClient
    from nconnect.errors import ControlError, HostError
    from nconnect.io.doctor import ThisMachine, gather
    from nconnect.io.namespace import userns
    from nconnect.io.process.privileges import may_administer

    problems = {}
    client = ControlClient(interface)
    is_rootless = os.geteuid() != 0 and not may_administer()
    for name, check in (
        ("privilege", preflight.check_privilege),
        ("tun", preflight.require_tun),
        ("nft", partial(preflight.require_nft, in_kernel=not is_rootless)),
    ):
        try:
            check()
        except HostError as error:
            problems[name] = str(error) if name == "nft" else str(error).partition(":")[0]
    said: tuple[str, ...] = ()
    direct_port = 0
    nodes: tuple[str, ...] = ()
    peers: tuple[tuple[str, str], ...] = ()
    try:
        status = client.status()
        said, nodes = status.problems, tuple(link.node for link in status.links)
        direct_port = status.direct.port or 0
        peers = tuple((peer.name, "left" if peer.has_left else peer.state) for peer in status.peers)
    except ControlError:
        pass  # it does not run, or is another user's
    machine = ThisMachine(
        net_admin="privilege" not in problems,
        no_namespaces=userns.problem() if is_rootless else "",
        tun=problems.get("tun", ""),
        nft=problems.get("nft", ""),
        released_at=preflight.RELEASED_AT,
        hosts=hosts,
        said=said,
        direct_port=direct_port,
        nodes=nodes,
        peers=peers,
        unreachable=client.is_unreachable(),
    )
    return gather(path, interface, machine, is_running=client.is_running)


def _fix(findings: Sequence[Finding], *, quiet: bool) -> list[dict[str, str | None]]:
    """Run every fix once; return the commands and why they failed."""
    from nconnect.io.doctor import run_fix

    done: list[dict[str, str | None]] = []
    for command in dict.fromkeys(command for finding in findings for command in finding.fix):
        problem = run_fix(command)
        done.append({"command": " ".join(command), "error": problem or None})
        if not quiet:
            print(
                f"{'failed' if problem else 'ran':<8} {' '.join(command)}{f': {problem}' if problem else ''}"
            )
    if done and not quiet:
        print()
    return done


def _report(target: Path, facts: Facts, findings: Sequence[Finding], path: Path) -> list[str]:
    from nconnect.control.client import ControlClient
    from nconnect.doctor.redact import addresses_of
    from nconnect.errors import ControlError
    from nconnect.io.files import report
    from nconnect.io.files.config_file import MAX_CONFIG_BYTES
    from nconnect.io.files.trusted import read_file

    try:
        status: dict[str, Any] = ControlClient(facts.interface).status().to_json()
    except ControlError as error:
        status = {"error": str(error)}
    try:
        text = read_file(path, MAX_CONFIG_BYTES).decode(errors="replace")
    except OSError as error:
        text = f"# {reason(error)}"
    return report.write(
        target,
        interface=facts.interface,
        config=facts.config,
        config_text=text,
        findings=[finding.to_json() for finding in findings],
        status=status,
        addresses=addresses_of(facts, status),
        outputs={"sysctls.txt": "\n".join(f"{k} = {v}" for k, v in sorted(facts.sysctls.items()))},
    )
