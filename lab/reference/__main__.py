"""`scripts/reference`."""

from __future__ import annotations

import argparse
import sys

from lab import CHECKOUT
from lab.reference import cli, metrics, openapi

PAGES = {
    CHECKOUT / "docs/reference/cli.md": cli.page,
    CHECKOUT / "docs/reference/metrics.md": metrics.page,
    CHECKOUT / "docs/openapi.json": openapi.document,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/reference",
        description="Writes docs/reference/cli.md from --help, docs/reference/metrics.md from what a daemon"
        " exposes, and docs/openapi.json from the control API.",
    )
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    check = parser.parse_args().check
    stale = []
    for path, make in PAGES.items():
        text = make()
        if not path.is_file() or path.read_text() != text:
            stale.append(str(path.relative_to(CHECKOUT)))
            if not check:
                path.write_text(text)
    if check and stale:
        print(f"not current, run scripts/reference: {', '.join(stale)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
