"""A stand-in for systemd-resolved, which runs only where systemd does, and the bus on which it is found.

    python -m lab.resolve1 ADDRESS

It takes org.freedesktop.resolve1's calls about links, keeps them as resolved does, and answers DNS at
ADDRESS (127.0.0.53) by them: a name goes to the link with the longest domain above it, and to nobody else;
every other name does not exist. Each call, and each question that it sends on, is a line of its output. The
bus is $DBUS_SYSTEM_BUS_ADDRESS; `bus_configuration` is dbus-daemon's for a bus of a test's.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
from jeepney import HeaderFields, Message, MessageType, new_error, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

NAME = "org.freedesktop.resolve1"
_TIMEOUT_S = 3.0
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="root"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""


def bus_configuration(path: Path) -> str:
    """The text for dbus-daemon --config-file: a bus at this path, for root alone."""
    return _BUS.format(path=path)


class Links:
    """What was said of each link."""

    def __init__(self) -> None:
        self.domains: dict[int, list[str]] = {}
        self.servers: dict[int, tuple[str, int]] = {}

    def call(self, method: str, arguments: tuple[Any, ...]) -> None:
        """One call of the interface org.freedesktop.resolve1.Manager."""
        index = arguments[0]
        if method == "SetLinkDomains":
            self.domains[index] = [domain for domain, is_routing_only in arguments[1] if is_routing_only]
        elif method == "SetLinkDNSEx":
            ((_, address, port, _),) = arguments[1]
            self.servers[index] = (socket.inet_ntoa(bytes(address)), port)
        elif method == "RevertLink":
            self.domains.pop(index, None)
            self.servers.pop(index, None)

    def server_of(self, name: str) -> tuple[str, int] | None:
        """Whom to ask for a name."""
        found = [
            (len(domain), self.servers[index])
            for index, domains in self.domains.items()
            for domain in domains
            if index in self.servers and f".{name}".endswith(f".{domain}")
        ]
        return max(found)[1] if found else None


def answered(data: bytes, links: Links) -> bytes:
    """The answer of whoever is to be asked; "no such name" when nobody is."""
    query = dns.message.from_wire(data)
    name = query.question[0].name.to_text(omit_final_dot=True)
    server = links.server_of(name)
    if server is None:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()
    print(json.dumps(["asks", name]), flush=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_TIMEOUT_S)
        client.connect(server)
        client.send(data)
        return client.recv(4096)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    arguments = parser.parse_args()
    links = Links()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((arguments.address, 53))
    with open_dbus_connection(bus="SYSTEM") as bus:
        bus.send_and_get_reply(message_bus.RequestName(NAME))
        print(json.dumps(["ready"]), flush=True)
        while True:
            for ready in select.select([bus.sock, server], [], [])[0]:
                if ready is server:
                    data, source = server.recvfrom(4096)
                    try:
                        server.sendto(answered(data, links), source)
                    except OSError as error:
                        print(json.dumps(["failed", str(error)]), flush=True)
                    continue
                message = bus.receive()
                if message.header.message_type is MessageType.method_call:
                    bus.send(_reply(message, links))


def _reply(message: Message, links: Links) -> Message:
    method = message.header.fields[HeaderFields.member]
    print(json.dumps([method, str(message.body)]), flush=True)
    if not method.startswith(("SetLink", "RevertLink")):
        return new_error(message, "org.freedesktop.DBus.Error.UnknownMethod")
    links.call(method, message.body)
    return new_method_return(message)


if __name__ == "__main__":
    main()
