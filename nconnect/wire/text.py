"""Words of the other side, made fit for one line of a terminal or a log."""

from __future__ import annotations

MAX_SHOWN = 128  # guessed; a websocket's close reason has at most 123 bytes


def printable(text: str) -> str:
    """At most `MAX_SHOWN` characters, with a space for each that a terminal does not show as such: control
    characters (of which escape sequences are made) and marks that change the direction of writing."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_SHOWN]).strip()


def visible(text: str) -> str:
    """The whole text, with U+FFFD for each such character except line feed and tab."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
