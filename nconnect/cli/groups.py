"""The layout of `--help`: commands in groups, and examples at the end of each page."""

from __future__ import annotations

from typing import Any

import typer
import typer.core

GROUPS: dict[str, tuple[str, ...]] = {
    "Set up": ("init", "join", "leave", "invite", "peer", "provide", "config"),
    "Run": ("up", "down", "run", "forward", "socks", "reload", "wait", "node", "tunnel"),
    "Look": ("status", "offers", "usage", "ping", "doctor", "logs", "address", "version"),
}
OTHERS = "Other"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "nconnect": (
        "sudo nconnect init",
        "sudo nconnect up -d",
        "sudo nconnect invite alice bob",
        "sudo nconnect join nc1-…",
        "nconnect offers",
        "sudo nconnect status --watch",
    ),
    "nconnect init": (
        "sudo nconnect init",
        "sudo nconnect init --role provider --scan",
        "sudo nconnect init --address 10.86.0.1/24 --expose 127.0.0.1:11434",
    ),
    "nconnect up": ("sudo nconnect up", "sudo nconnect up -d", "sudo nconnect -c /etc/nconnect/nc1.toml up"),
    "nconnect wait": ("sudo nconnect wait gpu-box --timeout 10",),
    "nconnect status": ("sudo nconnect status --watch", "sudo nconnect status --json"),
    "nconnect offers": ("nconnect offers", "nconnect offers --json"),
    "nconnect usage": ("nconnect usage", "nconnect usage --since 7d --by day"),
    "nconnect ping": ("sudo nconnect ping gpu-box -n 10",),
    "nconnect doctor": (
        "sudo nconnect doctor",
        "sudo nconnect doctor --fix",
        "sudo nconnect doctor --host 192.168.50.10 --report report.tar.gz",
    ),
    "nconnect run": (
        "nconnect run -- curl http://192.168.50.10:8000/v1/models",
        "nconnect run -- bash",
    ),
    "nconnect logs": ("sudo nconnect logs -f",),
    "nconnect node": ("nconnect node --listen 0.0.0.0",),
    "nconnect forward": (
        "nconnect forward 8000:192.168.50.10:8000",
        "nconnect forward --token nc1-… 11434:ollama.gpu-box.internal:11434 2222:192.168.50.10:22",
    ),
    "nconnect socks": (
        "nconnect socks --token nc1-…",
        "nconnect socks --listen 0.0.0.0:1080 --listen-password-file password",
    ),
    "nconnect tunnel": (
        "nconnect tunnel --from nkn --to 127.0.0.1:22 --accept <64 hex> --seed-file ssh.seed",
        "nconnect tunnel --from 2222 --to <64 hex> --seed-file my.seed",
    ),
    "nconnect invite": (
        "sudo nconnect invite alice bob carol --access 30d",
        "sudo nconnect invite alice --allow 192.168.50.10:8000/tcp --expires 7d",
    ),
    "nconnect join": ("sudo nconnect join nc1-…",),
    "nconnect leave": ("sudo nconnect leave gpu-box",),
    "nconnect config": ("sudo nconnect config check", "sudo nconnect config show"),
    "nconnect peer": ("sudo nconnect peer list", "sudo nconnect peer set alice --access 30d --dry-run"),
    "nconnect peer add": (
        "sudo nconnect peer add laptop laptop.<64 hex> --allowed-ips 10.86.0.2/32",
        "sudo nconnect peer add gpu-box gpu-box.<64 hex> --allowed-ips 10.86.0.1/32,192.168.50.0/24",
    ),
    "nconnect peer set": (
        "sudo nconnect peer set laptop --allow 192.168.50.10:8000/tcp",
        "sudo nconnect peer set laptop --add-allow 192.168.50.11/icmp --dry-run",
    ),
    "nconnect peer pause": ('sudo nconnect peer pause bob --why "back at 22:00"',),
    "nconnect peer remove": ("sudo nconnect peer remove laptop --yes",),
    "nconnect peer export": ("sudo nconnect peer export peers.toml",),
    "nconnect peer import": ("sudo nconnect peer import peers.toml --dry-run",),
    "nconnect provide": (
        "sudo nconnect provide server add ollama http://127.0.0.1:11434",
        "sudo nconnect provide show",
    ),
    "nconnect provide add": (
        "sudo nconnect provide add --subnet 192.168.51.0/24",
        "sudo nconnect provide add --service 8000/tcp --expose 127.0.0.1:11434 --dry-run",
    ),
    "nconnect provide server": ("nconnect provide server list",),
    "nconnect provide server add": (
        "sudo nconnect provide server add ollama http://127.0.0.1:11434",
        "sudo nconnect provide server add vllm http://192.168.50.10:8000 --also chat",
    ),
    "nconnect provide server remove": ("sudo nconnect provide server remove ollama --yes",),
    "nconnect provide host": ("nconnect provide host list",),
    "nconnect provide host add": ("sudo nconnect provide host add nas 192.168.50.20",),
    "nconnect provide host remove": ("sudo nconnect provide host remove nas",),
    "nconnect provide remove": ("sudo nconnect provide remove --subnet 192.168.51.0/24 --yes",),
    "nconnect completion": ("nconnect completion bash --install",),
}  # fmt: skip


class Explained(typer.core.TyperCommand):
    """A command whose help ends in examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(ctx, formatter)


class ExplainedGroup(typer.core.TyperGroup):
    """A group of commands whose help ends in examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(ctx, formatter)


class Grouped(ExplainedGroup):
    """The root command, whose help lists commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        shown = {n: c for n in self.list_commands(ctx) if (c := self.get_command(ctx, n)) and not c.hidden}
        width = max(map(len, shown))
        for title, names in arranged(tuple(shown)).items():
            with formatter.section(title):
                limit = formatter.width - 6 - width
                formatter.write_dl([(n.ljust(width), shown[n].get_short_help_str(limit)) for n in names])


def arranged(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The commands by group, in the groups' order; commands without a group come last."""
    known = {name for group in GROUPS.values() for name in group}
    found = {title: tuple(n for n in group if n in names) for title, group in GROUPS.items()}
    found[OTHERS] = tuple(name for name in names if name not in known)
    return {title: group for title, group in found.items() if group}


def explain(app: typer.Typer) -> None:
    """Add examples to every command of an application and of its sub-applications."""
    for command in app.registered_commands:
        if command.cls is typer.core.TyperCommand or command.cls is None:
            command.cls = Explained
    for group in app.registered_groups:
        if group.typer_instance is not None:
            explain(group.typer_instance)


def _write_examples(ctx: Any, formatter: Any) -> None:
    examples = EXAMPLES.get(ctx.command_path, ())
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
