"""Writes packaging/man from the same source as `--help`; --check only compares."""

from __future__ import annotations

import argparse
import sys

from lab import CHECKOUT
from lab.man_pages import pages
from nconnect.cli.app import app
from nconnect.cli.tree import tree

FOLDER = CHECKOUT / "packaging" / "man"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/man", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; status 1 if a page is not current"
    )
    check = parser.parse_args().check
    wanted = pages(tree(app))
    there = {path.name: path.read_text() for path in FOLDER.glob("*.1")}
    if check:
        old = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
        print("\n".join(f"{name} is not current: run scripts/man" for name in old), file=sys.stderr, end="")
        return 1 if old else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - wanted.keys():
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
