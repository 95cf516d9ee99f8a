"""The last forty seconds of what `status --watch` shows, as small graphs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from nconnect.cli.output import bytes_text, ms_text
from nconnect.cli.render import Rates
from nconnect.control.schema import Status

LENGTH = 40  # samples, one a second
_BARS = " ▁▂▃▄▅▆▇█"


class History:
    """Samples by subject; None for a moment in which nothing was known."""

    def __init__(self, length: int = LENGTH) -> None:
        self._length = length
        self._samples: dict[tuple[str, str], deque[float | None]] = {}

    def add(self, status: Status, rates: Rates) -> None:
        """Add one status; subjects that are no longer in it are forgotten."""
        now: dict[tuple[str, str], float | None] = {}
        for index, link in enumerate(status.links):
            now[f"link {index}", "round trip"] = link.rtt_ms
        for peer in status.peers:
            rx, tx = rates.get(peer.name, (None, None))
            now[peer.name, "received"] = rx
            now[peer.name, "sent"] = tx
            now[peer.name, "round trip"] = peer.rtt_ms
        kept = {}
        for key, value in now.items():
            kept[key] = self._samples.get(key) or deque(maxlen=self._length)
            kept[key].append(value)
        self._samples = kept

    def interrupted(self) -> None:
        """The daemon did not answer: a gap."""
        for samples in self._samples.values():
            samples.append(None)

    def lines(self, *, most: int = 24) -> list[str]:
        """Aligned lines, one for each subject with samples, at most `most`."""
        rows = list(self._rows())
        shown = rows[:most]
        width = max((len(row[0]) for row in shown), default=0)
        lines = [f"{name:<{width}}  {kind:<10}  {bars}  {text}" for name, kind, bars, text in shown]
        return lines + ([f"and {len(rows) - most} more"] if len(rows) > most else [])

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        for (name, kind), samples in self._samples.items():
            known = [value for value in samples if value is not None]
            if not any(known):
                continue
            show = ms_text if kind == "round trip" else _rate_text
            newest = samples[-1]
            text = f"{show(newest) if newest is not None else '-'} (most {show(max(known))})"
            yield name, kind, bars(samples, self._length), text


def bars(samples: Iterable[float | None], length: int) -> str:
    """A one-line graph, the newest at the right. The highest bar is the largest value; None is a blank."""
    values = list(samples)[-length:]
    top = max((value for value in values if value is not None), default=0.0)
    text = "".join(_bar(value, top) for value in values)
    return text.rjust(length)


def _bar(value: float | None, top: float) -> str:
    if value is None:
        return " "
    if value <= 0 or top <= 0:
        return _BARS[1]
    return _BARS[1 + min(7, int(value / top * 7.999))]


def _rate_text(rate: float | None) -> str:
    return "-" if rate is None else f"{bytes_text(rate)}/s"
