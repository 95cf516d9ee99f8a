"""Addresses to which no connection of a peer's is dialled, whatever is provided."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from nconnect.io.namespace.dial_out import is_refused


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "0.0.0.0", "169.254.169.254", "100.100.100.200", "224.0.0.1", "255.255.255.255"),
        *("::1", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1", "ff02::1"),
    ],
)
def test_it_is_refused(text: str) -> None:
    assert is_refused(ip_address(text))


@pytest.mark.parametrize("text", ["192.168.50.10", "10.0.0.1", "fd50::10", "2001:db8::1"])
def test_it_is_dialled(text: str) -> None:
    assert not is_refused(ip_address(text))
