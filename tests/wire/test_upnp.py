"""UPnP's codec: a description as routers give it, calls and their answers, and routers that lie."""

from __future__ import annotations

from ipaddress import IPv4Address
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire import upnp
from nconnect.wire.upnp import Fault, UpnpService

ROUTER = IPv4Address("192.168.1.1")
URL = "http://192.168.1.1:5000/rootDesc.xml"
IP1 = "urn:schemas-upnp-org:service:WANIPConnection:1"
SERVICE = UpnpService(IP1, "http://192.168.1.1:5000/ctl/IPConn")
FOUND = (
    "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n"
    "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    f"Location: {URL}\r\nEXT:\r\n\r\n"
).encode()


def description(*services: tuple[str, str], base: str = "") -> bytes:
    listed = "".join(
        f"<service><serviceType>{kind}</serviceType><serviceId>x</serviceId><controlURL>{url}</controlURL></service>"
        for kind, url in services
    )
    return (
        '<?xml version="1.0"?>\n<root xmlns="urn:schemas-upnp-org:device-1-0">'
        + (f"<URLBase>{base}</URLBase>" if base else "")
        + "<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><serviceList>"
        "<service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType>"
        "<controlURL>/ctl/L3F</controlURL></service></serviceList><deviceList><device><deviceList><device>"
        f"<serviceList>{listed}</serviceList></device></deviceList></device></deviceList></device></root>"
    ).encode()


def soap(inner: str) -> bytes:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<s:Body>{inner}</s:Body></s:Envelope>"
    ).encode()


def test_a_search_asks_the_router_alone() -> None:
    lines = upnp.search_request(ROUTER).decode().split("\r\n")
    assert lines[0] == "M-SEARCH * HTTP/1.1"
    assert "HOST: 192.168.1.1:1900" in lines
    assert 'MAN: "ssdp:discover"' in lines
    assert lines[-2:] == ["", ""]
    assert upnp.description_url(FOUND, ROUTER) == URL


@pytest.mark.parametrize(
    "location",
    [
        "http://192.168.1.2:5000/rootDesc.xml",
        "http://192.168.1.1@evil.example/",
        "http://evil.example/",
        "https://192.168.1.1/",
        "file:///etc/passwd",
        "http://192.168.1.1:99999/",
        "http://192.168.1.1:0/",
        "http://192.168.1.1/\x1b[2J",
        "//192.168.1.1/",
        "",
    ],
)
def test_a_url_that_leads_elsewhere_is_refused(location: str) -> None:
    with pytest.raises(RemoteProtocolError, match="not on the router"):
        upnp.description_url(FOUND.replace(URL.encode(), location.encode()), ROUTER)
    if location.startswith(("http", "file")):
        with pytest.raises(RemoteProtocolError):
            upnp.find_service(description((IP1, location.replace("\x1b", "\N{SNOWMAN}"))), URL, ROUTER)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 404 Not Found\r\nLocation: " + URL.encode(),
        b"NOTIFY * HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_other_datagrams_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        upnp.description_url(data, ROUTER)


@pytest.mark.parametrize(
    ("services", "base", "found"),
    [
        ([(IP1, "/ctl/IPConn")], "", SERVICE),
        ([(IP1, "ctl/IPConn")], "", SERVICE),
        ([(IP1, "/ctl/IPConn")], "http://192.168.1.1:5000/", SERVICE),
        ([(IP1, SERVICE.url), (IP1, "/second")], "", SERVICE),
        ([(IP1, "/1"), (IP1[:-1] + "2", "/2")], "", UpnpService(IP1[:-1] + "2", "http://192.168.1.1:5000/2")),
        (
            [("urn:schemas-upnp-org:service:WANPPPConnection:1", "/ppp")],
            "",
            UpnpService("urn:schemas-upnp-org:service:WANPPPConnection:1", "http://192.168.1.1:5000/ppp"),
        ),
    ],
)
def test_the_service_that_maps_ports_is_found(
    services: list[tuple[str, str]], base: str, found: UpnpService
) -> None:
    assert upnp.find_service(description(*services, base=base), URL, ROUTER) == found


@pytest.mark.parametrize(
    "document",
    [
        description(),
        description((IP1, "")),
        description((IP1, "/ctl"), base="http://evil.example/"),
        b"",
        b"<root>",
        b"<html><body>login</body></html>",
        b"\xff\xfe<",
        b'<?xml version="1.0" encoding="no-such-thing"?><root/>',
    ],
)
def test_a_description_without_it_is_refused(document: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        upnp.find_service(document, URL, ROUTER)


BOMB = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><root>&b;</root>'
FILE = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY f SYSTEM "file:///etc/passwd">]><root>&f;</root>'


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (BOMB, "a document type"),
        (FILE, "a document type"),
        (b'<!DOCTYPE root SYSTEM "http://evil.example/"><root/>', "a document type"),
        (b"<a>" * 5000 + b"</a>" * 5000, "too deep"),
        (b"<a>" + b"<b/>" * 5000 + b"</a>", "too many"),
        (b"<a>" + b" " * upnp.MAX_DOCUMENT_BYTES + b"</a>", "too long"),
    ],
)
def test_hostile_xml_is_refused(document: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        upnp.find_service(document, URL, ROUTER)
    with pytest.raises(RemoteProtocolError, match=why):
        upnp.result(document, "GetExternalIPAddress")


def test_a_call_is_what_an_xml_library_reads() -> None:
    headers, body = upnp.call(
        SERVICE,
        "AddPortMapping",
        upnp.map_arguments("udp", 41641, IPv4Address("192.168.1.7"), external_port=41642, lifetime_s=7200),
    )
    assert headers["SOAPAction"] == f'"{IP1}#AddPortMapping"'
    call = ElementTree.fromstring(body)[0][0]
    assert call.tag == f"{{{IP1}}}AddPortMapping"
    assert {argument.tag: argument.text or "" for argument in call} == {
        "NewRemoteHost": "",
        "NewExternalPort": "41642",
        "NewProtocol": "UDP",
        "NewInternalPort": "41641",
        "NewInternalClient": "192.168.1.7",
        "NewEnabled": "1",
        "NewPortMappingDescription": "nconnect",
        "NewLeaseDuration": "7200",
    }
    _, body = upnp.call(SERVICE, "X", {"A": "<&>"})
    assert ElementTree.fromstring(body)[0][0][0].text == "<&>"
    assert set(upnp.unmap_arguments("tcp", 7)) == {"NewRemoteHost", "NewExternalPort", "NewProtocol"}


def test_results_and_faults() -> None:
    answer = soap(
        f'<u:GetExternalIPAddressResponse xmlns:u="{IP1}"><NewExternalIPAddress> 203.0.113.9 '
        "</NewExternalIPAddress></u:GetExternalIPAddressResponse>"
    )
    values = upnp.result(answer, "GetExternalIPAddress")
    assert values == {"NewExternalIPAddress": "203.0.113.9"}
    assert upnp.external_address(values) == IPv4Address("203.0.113.9")
    fault = (
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
        '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>718</errorCode>'
        "<errorDescription>ConflictIn\x7fMappingEntry</errorDescription></UPnPError></detail></s:Fault>"
    )
    assert upnp.result(soap(fault), "AddPortMapping") == Fault(718, "ConflictIn MappingEntry")
    assert upnp.result(soap("<s:Fault/>"), "AddPortMapping") == Fault(0, "a fault without a reason")
    bad = fault.replace("718", "x").replace("ConflictIn\x7fMappingEntry", "")
    assert upnp.result(soap(bad), "AddPortMapping") == Fault(0, "error 0")
    with pytest.raises(RemoteProtocolError, match="another call"):
        upnp.result(answer, "AddPortMapping")


@pytest.mark.parametrize("text", ["", "router", "203.0.113.9:80", "999.1.1.1"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        upnp.external_address({"NewExternalIPAddress": text})
    with pytest.raises(RemoteProtocolError):
        upnp.external_address({})


@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([description((IP1, "/ctl")), soap("<s:Fault/>"), FOUND])))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for read in (
        lambda: upnp.find_service(whole, URL, ROUTER),
        lambda: upnp.result(whole, "GetExternalIPAddress"),
        lambda: upnp.description_url(whole, ROUTER),
    ):
        try:
            read()
        except RemoteProtocolError:
            pass
