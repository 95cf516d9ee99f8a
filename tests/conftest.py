"""Hypothesis' profile for all tests.

How long one example takes says something about the machine, not about the code: neither the deadline for an
example nor the health check for slow generation may fail a test. A busy machine has done both.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("nconnect", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nconnect")
