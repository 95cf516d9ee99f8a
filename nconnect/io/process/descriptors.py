"""How many descriptors this process may have (RLIMIT_NOFILE, getrlimit(2)): each connection is one."""

from __future__ import annotations

import resource

_UNLIMITED = 1 << 20  # more than anything here asks for


def limit() -> int:
    """The limit that holds now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def take_all() -> None:
    """Raise the limit, which is usually 1,024, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
