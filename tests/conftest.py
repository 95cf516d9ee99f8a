"""Hypothesis' profile for all tests, and an environment without proxy and name servers.

How long one example takes says something about the machine, not about the code: neither the deadline for an
example nor the health check for slow generation may fail a test. A busy machine has done both.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

from nconnect.config.proxy import EXCEPTIONS, VARIABLES
from nconnect.io.net import name_servers

settings.register_profile("nconnect", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nconnect")

for _name in (*VARIABLES, *EXCEPTIONS):
    os.environ.pop(_name, None)  # a proxy of the machine's own is no part of a test

name_servers.RESOLV_CONF = Path(os.devnull)  # nor are its name servers
