"""A change of the configuration file that a running daemon takes over at once, or that is taken back."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from nconnect.control.client import ControlClient, NotRunning, Refused
from nconnect.errors import ConfigError, ControlError
from nconnect.io import config_file
from nconnect.model import Config


class Outcome(Enum):
    """What became of a change; the value is how it is told."""

    APPLIED = "in force now"
    KEPT = "kept in the file; nothing runs that it would change"
    NOTHING = "it was so already"
    SHOWN = "nothing was changed (--dry-run)"


def change_file(path: Path, change: Callable[[str], str], *, dry_run: bool = False) -> Outcome:
    """Replace the file's text by `change(text)`, checked, under the file's lock, and have it read again.

    Raises `ConfigError` with the file untouched when the text or the change is wrong, and `ControlError` with
    the old text put back when the daemon refuses it, or with the new text kept when nobody knows whether the
    daemon has taken it over. With `dry_run` the result is checked and its difference
    is printed, without secrets; the file stays, and the daemon is not asked.
    """
    if dry_run:
        before = config_file.read(path)
        after = change(before)
        _check(path, before, after)
        if after == before:
            return Outcome.NOTHING
        print("\n".join(difference(before, after)))
        return Outcome.SHOWN
    with config_file.locked(path):
        before = config_file.read(path)
        after = change(before)
        checked = _check(path, before, after)
        if after == before:
            return Outcome.NOTHING
        config_file.write(path, after)
        try:
            ControlClient(checked.interface).reload()
        except NotRunning:
            return Outcome.KEPT
        except Refused as error:
            config_file.write(path, before)
            raise ControlError(f"the daemon refused, and the file is as before: {error}") from None
        except ControlError as error:
            # The change may be in force: to take it back could give a peer rights at the next start that it
            # has lost.
            raise ControlError(
                f"{error}; the file has the change, and whether it is in force is not known:"
                " try `nconnect reload`"
            ) from None
        return Outcome.APPLIED


def difference(before: str, after: str) -> list[str]:
    """The lines that differ, marked + and -, each section's head before them; secrets are taken out."""
    import difflib

    return [
        line[0] + _hide(line[1:])
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]


def _hide(line: str) -> str:
    return re.sub(r"^(\s*(?:seed|preshared_key)\s*=\s*).*", r"\1(hidden)", line)


def _check(path: Path, before: str, after: str) -> Config:
    """Check the new text; the old one's mistakes are told with their lines, the change's own without."""
    try:
        return config_file.check(path, after)
    except ConfigError as error:
        config_file.check(path, before)
        raise ConfigError(
            re.sub(rf"^{re.escape(str(path))}:\d+: ", "", text) for text in error.problems
        ) from None
