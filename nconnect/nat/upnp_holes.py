"""Keeps one port of this machine open in the IPv6 firewall of a router that speaks UPnP (IGD:2). Pure.

Driven as a `nat.upnp_mapping.UpnpMapper`. WANIPv6FirewallControl:1: `AddPinhole` for each protocol gives a
number, by which `DeletePinhole` closes the hole at the end. The calls must come from the address that is
opened (section 2.6.3 there), so each address has a machine of its own. Asked again for the same hole, the
router renews it.
"""

from __future__ import annotations

from nconnect.model import Rng
from nconnect.nat.port_mapping import LIFETIME_S, PortRequest
from nconnect.nat.upnp_mapping import HttpCall, UpnpMapper, UpnpStep
from nconnect.wire import upnp
from nconnect.wire.upnp import Fault


class UpnpHoles(UpnpMapper):
    """The holes for one port of one address. `mappings` have that address and that port."""

    _names = upnp.OPENS_IPV6
    _action = "AddPinhole"

    def __init__(self, request: PortRequest, *, now: float, rng: Rng) -> None:
        super().__init__(request, now=now, rng=rng)
        self._numbers: dict[str, str] = {}  # of the holes, by protocol

    def _give_back(self) -> list[HttpCall]:
        # One whose answer was lost is closed by the router in time.
        return [
            self._http("DeletePinhole", {"UniqueID": number}) for _, number in sorted(self._numbers.items())
        ]

    def _found(self, now: float) -> None:
        self._map_all(now)

    def _map(self, now: float) -> None:
        arguments = upnp.hole_arguments(self._left[0], self._port, self._own, lifetime_s=LIFETIME_S)
        self._ask(UpnpStep.MAP, self._action, arguments, now)

    def _mapped(self, answer: dict[str, str] | Fault, now: float) -> None:
        if isinstance(answer, Fault):
            self._give_up(f"the router refuses to open a port by UPnP: {answer.why}", now)
            return
        self.is_answered = True
        self._numbers[self._left[0]] = upnp.hole_id(answer)
        self._holds(self._own, self._port, now)
