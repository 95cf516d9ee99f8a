"""`python -m nconnect`."""

import sys

from nconnect.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
