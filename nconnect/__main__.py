"""`python -m nconnect`."""

import sys

from nconnect.cli.entry import begin

if __name__ == "__main__":
    sys.exit(begin())
