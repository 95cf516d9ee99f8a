"""Pictures of a run as SVG and PNG. Needs matplotlib (a test tool)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.bench.compare import Results
from lab.bench.contenders import CONTENDERS
from lab.bench.metrics import CONGESTION_CONTROLS, shaped_name
from lab.bench.report import number
from lab.netns import LabError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS = "#1a7f5a", "#8a96a3"
SECOND = "#7cc4a6", "#c2c9d0"  # ours and theirs, the second bar of a pair
NAMES = {
    "wireguard-go": "wireguard-go, Debian",
    "wireguard-go-new": "wireguard-go, current",
    "nconnect-signed": "nconnect, signed",
    "nconnect-chacha20": "nconnect, ChaCha20",
    "nconnect-chacha20-signed": "nconnect, ChaCha20, signed",
    "nkn-sdk": "NKN SDK session",
}
SDK = "nkn-sdk"


def plots(results: Results, folder: Path) -> list[str]:
    """Write bench-speed, bench-slow-link and bench-scale, as far as there is something; their names."""
    try:
        import matplotlib
    except ImportError:
        raise LabError("no pictures without matplotlib: run scripts/setup --dev") from None
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "nconnect",
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.bottom": False,
            "xtick.bottom": False,
            "ytick.left": False,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in (("bench-speed", _speed), ("bench-slow-link", _slow_link), ("bench-scale", _scale)):
        figure = draw(results)
        if figure is not None:
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            figure.savefig(folder / f"{name}.png", dpi=130)
            drawn.append(name)
    return drawn


def _speed(results: Results) -> Any | None:
    names = [found.name for found in CONTENDERS if found.name in results.values]
    ways = "dark: up, light: down"
    panels = (
        ("One TCP stream, Gbit/s: more is better", ("tcp_up", "tcp_down"), ways),
        (
            "UDP flooded, 1,000 packets/s that arrive: more is better",
            ("udp_64", "udp_1400"),
            "dark: 64 B, light: 1,400 B",
        ),
        ("CPU seconds a gigabyte, all processes: less is better", ("cpu_up", "cpu_down"), ways),
        ("Idle round trip, ms: less is better", ("ping_p50", "ping_p99"), "dark: p50, light: p99"),
    )
    if not names or results.median(names[0], "tcp_up") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    for axes, (title, metrics, words) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        shown = [name for name in names if name != "veth" and results.median(name, metrics[0]) is not None]
        scale = 1e-3 if metrics[0].startswith("udp") else 1.0
        _bars(axes, f"{title}\n({words})", results, shown, metrics, scale)
    return figure


def _slow_link(results: Results) -> Any | None:
    kinds = [
        (congestion, load)
        for congestion in CONGESTION_CONTROLS
        for load in ("up", "down")
        if any(shaped_name(congestion, load, "ping_p99") in found for found in results.values.values())
    ]
    names = [
        name
        for name in ("wireguard-go", "nconnect")
        if kinds and results.median(name, shaped_name(*kinds[0], "ping_p99")) is not None
    ]
    if not names:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle("A bulk transfer fills a link of 10 Mbit/s up, 50 down, with one second of buffer")
    panels = (
        ("p99 ping, ms", "ping_p99"),
        ("p99 gap between a chat's tokens, ms", "gap_p99"),
        ("link used, %", "used"),
    )
    for axes, (title, what) in zip(figure.subplots(1, 3).flat, panels, strict=True):
        axes.set_title(title, loc="left", fontsize=9)
        labels = [f"{congestion.upper()}, {load}load" for congestion, load in kinds]
        _grouped(
            axes,
            labels,
            [
                (
                    NAMES.get(name, name),
                    OURS if name == "nconnect" else THEIRS,
                    [results.median(name, shaped_name(*kind, what)) for kind in kinds],
                )
                for name in names
            ],
            "{:,.0f}",
        )
        if what == "ping_p99":
            axes.legend(frameon=False, loc="best")
    return figure


def _scale(results: Results) -> Any | None:
    peers = [name for name in results.values if name.endswith((" peer", " peers"))]
    if not peers:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6), layout="constrained")
    panels = (
        ("TCP through one of them, Gbit/s", ("tcp_up", "tcp_down")),
        ("provider's memory, MB", ("rss",)),
        ("all back after the node's restart, s", ("back",)),
    )
    clients = [name for name in results.values if name.endswith(" clients")]
    for axes, (title, metrics) in zip(figure.subplots(1, 3).flat, panels, strict=True):
        names = peers + (clients if metrics == ("back",) else [])
        _bars(axes, title, results, names, metrics, 1.0)
    return figure


def _bars(
    axes: Axes, title: str, results: Results, names: Sequence[str], metrics: Sequence[str], scale: float
) -> None:
    """A group of bars for each name: one for each metric, the first on top and darker.

    The axis ends where the longest bar but the SDK's does: that one, far out, is cut off, with its number.
    """
    names = [name for name in names if any(results.median(name, metric) is not None for metric in metrics)]
    axes.set_title(title, loc="left", fontsize=9)
    height = 0.8 / len(metrics)
    longest = max(
        (
            value * scale
            for name in names
            for metric in metrics
            if name != SDK and (value := results.median(name, metric)) is not None
        ),
        default=1.0,
    )
    for n, metric in enumerate(metrics):
        for place, name in enumerate(names):
            median = results.median(name, metric)
            if median is None:
                continue
            value = median * scale
            ours = name.startswith("nconnect") or name[0].isdigit()
            color = (OURS if ours else THEIRS) if n == 0 else SECOND[0 if ours else 1]
            at = place + (n - (len(metrics) - 1) / 2) * height
            axes.barh(at, min(value, longest), height * 0.92, color=color)
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            words = number(value, digits) + (" ▸" if value > longest else "")
            _label(axes, words, min(value, longest), at)
    axes.set_yticks(range(len(names)), [NAMES.get(name, name) for name in names])
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.set_xlim(0, longest * 1.18)


def _grouped(
    axes: Axes,
    labels: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float | None]]],
    words: str,
) -> None:
    """For each label a bar of each series."""
    height = 0.8 / len(series)
    for n, (name, color, values) in enumerate(series):
        at = [place + (n - (len(series) - 1) / 2) * height for place in range(len(labels))]
        axes.barh(at, [value or 0 for value in values], height * 0.92, color=color, label=name)
        for y, value in zip(at, values, strict=True):
            if value is not None:
                _label(axes, words.format(value), value, y)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xticks([])
    longest = max((value for _, _, values in series for value in values if value), default=1.0)
    axes.set_xlim(0, longest * 1.18)


def _label(axes: Axes, words: str, x: float, y: float) -> None:
    """Write the number at the end of its bar, so that no ticks are needed."""
    axes.annotate(words, (x, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5)
