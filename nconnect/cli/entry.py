"""The console script: `nconnect run` at once, everything else by the whole command line.

To import the whole command line takes several times as long as everything that `run` does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def begin() -> int:
    """Run one command; return its exit status."""
    status = _run_at_once(sys.argv[1:])
    if status is not None:
        return status
    from nconnect.cli.app import main

    return main()


def _run_at_once(arguments: Sequence[str]) -> int | None:
    """Become the command of `run [-c PATH] -- COMMAND…`; None when the whole command line is needed."""
    if arguments[:1] != ["run"] or "--" not in arguments:
        return None
    end = arguments.index("--")
    options = arguments[1:end]
    if options and (len(options) != 2 or options[0] not in ("-c", "--config")):
        return None
    from nconnect.errors import NconnectError
    from nconnect.io.namespace.command import start

    try:
        return start(arguments[end + 1 :], Path(options[1]) if options else None)
    except NconnectError as error:
        print(f"nconnect: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
