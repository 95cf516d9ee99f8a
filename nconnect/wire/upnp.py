"""Asking a router by UPnP: SSDP, a device's description, and SOAP calls (IGD:1 and IGD:2). Pure.

1. SSDP (UPnP Device Architecture 1.1, section 1.3): a search in a datagram, `M-SEARCH * HTTP/1.1`, to port
   1900 of the router; its answer names the URL of its description (`LOCATION`).
2. The description, XML, names the control URLs of services. `WANIPConnection` or `WANPPPConnection` has the
   port mappings, `WANIPv6FirewallControl` (IGD:2) the holes in the firewall for IPv6.
3. A call is a POST of XML to that URL (section 3.2); an error is an `UPnPError` with a number.

A router's XML is a stranger's: a document type, through which XML documents refer to others or expand into
gigabytes, is refused, and so is what is long or deep. URLs that lead to another host than the router, who
answered the search, are refused too. By IPv6 it answers from its link-local address mostly, and names another
one: that must be in the /64 of this machine's own address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address, Buffer, join_addr
from nconnect.wire.text import printable

SSDP_PORT = 1900
MAX_DOCUMENT_BYTES = 64 << 10  # guessed: a router's description has 2 to 10 KB
_MAX_DEPTH = 32
_MAX_ELEMENTS = 4096
_ST = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"  # also those of version 2 must answer to it
MAPS_PORTS: tuple[str, ...] = ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
OPENS_IPV6: tuple[str, ...] = ("WANIPv6FirewallControl:1",)
_PROTOCOLS = {"tcp": "6", "udp": "17"}
_SOAP = "http://schemas.xmlsoap.org/soap/envelope/"


@dataclass(frozen=True, slots=True)
class UpnpService:
    """What to call, and where."""

    type: str  # urn:schemas-upnp-org:service:WANIPConnection:1
    url: str


@dataclass(frozen=True, slots=True)
class Fault:
    """The router refuses a call."""

    code: int  # 0: it gave none
    why: str


class _Builder(TreeBuilder):
    """Makes elements whose tags have no namespace; refuses what no router needs."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._count = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._depth += 1
        self._count += 1
        if self._depth > _MAX_DEPTH or self._count > _MAX_ELEMENTS:
            raise RemoteProtocolError("UPnP: a document that is too deep or has too many elements")
        return super().start(tag.rpartition("}")[2], {})

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag.rpartition("}")[2])

    def doctype(self, *_: object) -> None:
        raise RemoteProtocolError("UPnP: a document with a document type")


def search_request(router: Address) -> bytes:
    """The datagram that asks a router, and nobody else, whether it is an internet gateway device."""
    return (
        f"M-SEARCH * HTTP/1.1\r\nHOST: {join_addr(str(router), SSDP_PORT)}\r\n"
        f'MAN: "ssdp:discover"\r\nST: {_ST}\r\n\r\n'
    ).encode()


def description_url(data: Buffer, router: Address, own: Address | None = None) -> str:
    """Where the answer to a search says that the router's description is. Raises `RemoteProtocolError`.

    `own`: this machine's address, if that is an IPv6 one.
    """
    head = bytes(data[:4096]).partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    if not head[0].startswith("HTTP/1.") or head[0].split()[1:2] != ["200"]:
        raise RemoteProtocolError("UPnP: not an answer to a search")
    for line in head[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "location":
            return _at_router(value.strip(), router, own)
    raise RemoteProtocolError("UPnP: an answer without a location")


def find_service(
    document: Buffer,
    url: str,
    router: Address,
    names: Sequence[str] = MAPS_PORTS,
    own: Address | None = None,
) -> UpnpService:
    """The first of these services, in the description that was read from `url`.

    Raises `RemoteProtocolError`.
    """
    root = _parse(document)
    base = _value(root, "URLBase") or url
    found: dict[str, str] = {}
    for service in root.iterfind(".//service"):
        found.setdefault(_value(service, "serviceType"), _value(service, "controlURL"))
    for name in names:
        kind = f"urn:schemas-upnp-org:service:{name}"
        if found.get(kind):
            try:
                control = urljoin(base, found[kind])
            except ValueError:
                raise RemoteProtocolError("UPnP: a control URL that is none") from None
            return UpnpService(kind, _at_router(control, router, own))
    raise RemoteProtocolError(
        "UPnP: the router " + ("maps no ports" if names is MAPS_PORTS else "opens no ports for IPv6")
    )


def call(service: UpnpService, action: str, arguments: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Headers and body of the POST that calls `action`."""
    inner = "".join(f"<{name}>{escape(value, quote=False)}</{name}>" for name, value in arguments.items())
    body = (
        '<?xml version="1.0"?>\r\n'
        f'<s:Envelope xmlns:s="{_SOAP}" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
        f'<s:Body><u:{action} xmlns:u="{service.type}">{inner}</u:{action}></s:Body></s:Envelope>'
    )
    headers = {"Content-Type": 'text/xml; charset="utf-8"', "SOAPAction": f'"{service.type}#{action}"'}
    return headers, body.encode()


def result(document: Buffer, action: str) -> dict[str, str] | Fault:
    """What a call gave: its output arguments, or the fault. Raises `RemoteProtocolError`."""
    root = _parse(document)
    for answer in root.iterfind(f".//{action}Response"):
        return {child.tag: (child.text or "").strip() for child in answer}
    for error in root.iterfind(".//UPnPError"):
        code = _value(error, "errorCode")
        number = int(code) if code.isascii() and code.isdecimal() and len(code) < 6 else 0
        return Fault(number, printable(_value(error, "errorDescription"))[:100] or f"error {number}")
    if root.find(".//Fault") is not None:
        return Fault(0, "a fault without a reason")
    raise RemoteProtocolError("UPnP: an answer to another call")


def external_address(values: Mapping[str, str]) -> Address:
    """What `GetExternalIPAddress` gave. Raises `RemoteProtocolError`."""
    try:
        return ip_address(values.get("NewExternalIPAddress", ""))
    except ValueError:
        raise RemoteProtocolError("UPnP: no address outside") from None


def map_arguments(
    protocol: str, port: int, own: Address, *, external_port: int, lifetime_s: int
) -> dict[str, str]:
    """Arguments of `AddPortMapping`; a lifetime of 0 asks for a mapping that does not end."""
    return {
        **_outside(protocol, external_port),
        "NewInternalPort": str(port),
        "NewInternalClient": str(own),
        "NewEnabled": "1",
        "NewPortMappingDescription": "nconnect",
        "NewLeaseDuration": str(lifetime_s),
    }


def unmap_arguments(protocol: str, external_port: int) -> dict[str, str]:
    """Arguments of `DeletePortMapping`."""
    return _outside(protocol, external_port)


def hole_arguments(protocol: str, port: int, own: Address, *, lifetime_s: int) -> dict[str, str]:
    """Arguments of `AddPinhole`: from anywhere to this port of ours."""
    return {
        "RemoteHost": "",
        "RemotePort": "0",
        "InternalClient": str(own),
        "InternalPort": str(port),
        "Protocol": _PROTOCOLS[protocol],
        "LeaseTime": str(lifetime_s),
    }


def hole_id(values: Mapping[str, str]) -> str:
    """What `AddPinhole` gave, and `DeletePinhole` takes. Raises `RemoteProtocolError`."""
    found = values.get("UniqueID", "")
    if not (found.isascii() and found.isdecimal() and len(found) <= 5):
        raise RemoteProtocolError("UPnP: a hole without a number")
    return found


def _outside(protocol: str, port: int) -> dict[str, str]:
    return {"NewRemoteHost": "", "NewExternalPort": str(port), "NewProtocol": protocol.upper()}


def _at_router(url: str, router: Address, own: Address | None = None) -> str:
    try:
        parts = urlsplit(url)
        host, port = ip_address(parts.hostname or ""), parts.port
        same = host == router or (
            own is not None and host != own and host.version == 6 and host.packed[:8] == own.packed[:8]
        )
    except ValueError:
        same, port = False, None
    if not same or parts.scheme != "http" or port == 0 or not url.isascii() or not url.isprintable():
        raise RemoteProtocolError("UPnP: a URL that is not on the router")
    return url


def _parse(document: Buffer) -> Element:
    """XML without a document type to elements. Raises `RemoteProtocolError`."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise RemoteProtocolError("UPnP: a document that is too long")
    parser = XMLParser(target=_Builder())
    try:
        parser.feed(bytes(document))
        return parser.close()
    except (ParseError, ValueError, LookupError) as error:  # the latter two of strange encodings
        raise RemoteProtocolError("UPnP: not XML") from error


def _value(element: Element, name: str) -> str:
    """The text of a child; "" when there is none."""
    return element.findtext(name, "").strip()
