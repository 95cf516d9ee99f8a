"""The system's errors, in words for a one-line message."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nconnect.errors import HostError

TRY_SUDO = " (try with sudo)"


@contextmanager
def as_host_error(what: str, *, passes: type[OSError] | tuple[()] = (), denied: str = "") -> Iterator[None]:
    """Turn a system error into a `HostError`: `what` ("cannot read FILE") and why.

    `passes`: errors that go on to the caller as they are. `denied`: what follows where permission is missing
    and the process is not root's.
    """
    try:
        yield
    except passes:
        raise
    except OSError as error:
        hint = denied if isinstance(error, PermissionError) and os.geteuid() else ""
        raise HostError(f"{what}: {reason(error)}{hint}") from error


def reason(error: OSError) -> str:
    """The reason in the error's own words, without number and path."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def plain_reason(error: OSError) -> str:
    """The same for errors of asyncio, whose text repeats the address."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return reason(error)
