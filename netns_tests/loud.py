"""`python -m netns_tests.loud …`: nconnect with all its logs at DEBUG, and with asyncio in debug mode."""

from __future__ import annotations

import asyncio
import logging
import sys

from nconnect.cli import app, logs


def main() -> int:
    options = logs.log_to_stderr.__kwdefaults__
    assert options is not None
    assert "level" in options
    options["level"] = logging.DEBUG
    logging.getLogger("asyncio").setLevel(logging.DEBUG)
    defaults = asyncio.Runner.__init__.__kwdefaults__
    assert defaults is not None
    defaults["debug"] = True
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
