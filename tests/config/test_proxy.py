"""Proxies: URLs, the environment, and which destination goes by proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.config.file import parse_config
from nconnect.config.proxy import UNPROXIED, Proxies, of_config, of_environment, parse_proxy
from nconnect.errors import ConfigError
from nconnect.model import Proxy

FILE = '[interface]\nseed = "' + "11" * 32 + '"\naddress = ["10.86.0.2/24"]\n'
PROXY = Proxy("http", "10.0.0.1", 3128)


def network(setting: str) -> str:
    return f"{FILE}[network]\nproxy = {setting}\n"


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://10.0.0.1:3128", PROXY),
        ("HTTP://10.0.0.1:3128/", PROXY),
        ("http://bob:secret@proxy.example:8080", Proxy("http", "proxy.example", 8080, "bob", "secret")),
        ("http://b%40b:p%3A%2F%23%25@h:1", Proxy("http", "h", 1, "b@b", "p:/#%")),
        ("http://bob:p@ss@h:1", Proxy("http", "h", 1, "bob", "p@ss")),
        ("http://bob:@h:1", Proxy("http", "h", 1, "bob", "")),
        ("socks5://[fd00::1]:1080", Proxy("socks5", "fd00::1", 1080)),
        ("socks5h://bob:secret@h:1080", Proxy("socks5", "h", 1080, "bob", "secret")),
        ("socks://127.0.0.1:1080/", Proxy("socks5", "127.0.0.1", 1080)),
    ],
)
def test_urls(text: str, proxy: Proxy) -> None:
    assert parse_proxy(text) == proxy


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "control character"),
        ("10.0.0.1:3128", "write http://"),
        ("https://h:1", "https:// is not a kind of proxy"),
        ("socks4://h:1", "socks4:// is not a kind of proxy"),
        ("ftp://bob:hunter2@h:1", "ftp:// is not a kind of proxy"),
        ("http://h", "has no port"),
        ("http://bob:hunter2@h", "has no port"),
        ("http://h:0", "has no port"),
        ("http://h:99999", "is not a proxy's URL"),
        ("http://:3128", "has no host"),
        ("http://bob:hunter2/x@h:1", "percent-encoded"),
        ("http://h:1/path", "has a path"),
        ("http://bob:hunter2#x@h:1", "percent-encoded|has a path|no port"),
        ("http://h:1\n", "control character"),
        ("http://bob:hunter2\x1b[31m@h:1", "control character"),
        ("http://bob:hunter2%0d%0aX@h:1", "control character in its user or password"),
        ("http://:hunter2@h:1", "no user"),
        ("http://a%3Ab:hunter2@h:1", "colon"),
        ("socks5://bob@h:1", "SOCKS5 cannot carry"),
        ("socks5://bob:hunter2%C3%BC@h:1", "SOCKS5 cannot carry"),
        ("socks5://bob:" + "hunter2" * 40 + "@h:1", "SOCKS5 cannot carry"),
        ("http://[fe80::1%25eth0]:1", "no host|no proxy"),
        ("http://ho st:1", "space"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_without_its_secret(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_proxy(text)
    (problem,) = caught.value.problems
    assert "hunter2" not in problem
    assert problem.isprintable()


@given(st.text(max_size=60))
def test_any_text_is_a_proxy_or_one_line(text: str) -> None:
    for candidate in (text, f"http://{text}", f"socks5://{text}@h:1"):
        try:
            assert 0 < parse_proxy(candidate, bare=True).port < 65536
        except ConfigError as refused:
            problems = refused.problems
        else:
            continue
        assert len(problems) == 1
        assert "\n" not in problems[0]


def test_neither_text_nor_repr_shows_the_login() -> None:
    proxy = parse_proxy("http://bob:hunter2@[fd00::1]:3128")
    assert str(proxy) == "[fd00::1]:3128"
    for secret in ("hunter2", "bob"):
        assert secret not in repr(Proxies(proxy))


def test_the_file_s_setting() -> None:
    assert parse_config(FILE, interface="nc0").network.proxy is None
    assert parse_config(network('"none"'), interface="nc0").network.proxy == "none"
    assert parse_config(network('"http://10.0.0.1:3128"'), interface="nc0").network.proxy == PROXY
    for setting in ('"http://bob:hunter2@h"', "7", '"gopher://h:1"', '""'):
        with pytest.raises(ConfigError, match=r"nc0\.toml:5: \[network\] proxy: ") as caught:
            parse_config(network(setting), interface="nc0")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "proxy", "source"),
    [
        ({}, None, ""),
        ({"HTTP_PROXY": "http://10.0.0.1:3128"}, None, ""),
        ({"HTTPS_PROXY": "http://10.0.0.1:3128"}, PROXY, "HTTPS_PROXY"),
        ({"https_proxy": "10.0.0.1:3128"}, PROXY, "https_proxy"),
        ({"ALL_PROXY": "http://10.0.0.1:3128"}, PROXY, "ALL_PROXY"),
        ({"all_proxy": " http://10.0.0.1:3128 "}, PROXY, "all_proxy"),
        ({"ALL_PROXY": "socks5://h:1", "HTTPS_PROXY": "http://10.0.0.1:3128"}, PROXY, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "http://10.0.0.1:3128"}, PROXY, "ALL_PROXY"),
        ({"HTTPS_PROXY": "http://h:1", "https_proxy": "http://10.0.0.1:3128"}, PROXY, "https_proxy"),
    ],
)
def test_the_environment(environ: dict[str, str], proxy: Proxy | None, source: str) -> None:
    found = of_environment(environ)
    assert (found.proxy, found.source) == (proxy, source)


def test_a_wrong_variable_is_named_and_its_secret_is_not() -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        of_environment({"HTTPS_PROXY": "ftp://bob:hunter2@h:1"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "node.example", 1, False),
        ("*", "node.example", 1, True),
        ("node.example", "node.example", 1, True),
        ("node.example", "Node.Example.", 1, True),
        ("node.example", "a.node.example", 1, True),
        ("node.example", "badnode.example", 1, False),
        (".example", "node.example", 1, True),
        ("*.example", "node.example", 1, True),
        ("a.b, node.example:443", "node.example", 443, True),
        ("node.example:443", "node.example", 80, False),
        ("192.0.2.1", "192.0.2.1", 1, True),
        ("192.0.2.1", "192.0.2.10", 1, False),
        ("192.0.2.1:30003", "192.0.2.1", 30003, True),
        ("192.0.2.1:30003", "192.0.2.1", 30002, False),
        ("192.0.2.0/24", "192.0.2.200", 1, True),
        ("192.0.2.0/24", "192.0.3.1", 1, False),
        ("fd00::/8", "fd12::1", 1, True),
        ("[fd00::1]:30003", "fd00::1", 30003, True),
        ("fd00::1", "fd00::1", 1, True),
        ("2.1", "192.0.2.1", 1, False),
        ("x y\tnode.example", "node.example", 1, True),
        (",,", "node.example", 1, False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, port: int, direct: bool) -> None:
    found = of_environment({"https_proxy": "http://10.0.0.1:3128", "NO_PROXY": no_proxy})
    assert (found.to(host, port) is None) == direct


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST.", "a.localhost"]
)
def test_loopback_is_never_reached_by_proxy(host: str) -> None:
    assert Proxies(PROXY).to(host, 30003) is None


def test_our_own_node_is_never_reached_by_proxy() -> None:
    text = network('"http://10.0.0.1:3128"') + '[node]\nlisten = "192.0.2.9"\nadvertise = "Node.example"\n'
    found = of_config(parse_config(text, interface="nc0"), {})
    assert found.to("192.0.2.9", 30003) is None
    assert found.to("node.example", 30002) is None
    assert found.to("192.0.2.8", 30003) == PROXY


def test_the_file_goes_before_the_environment() -> None:
    environ = {"HTTPS_PROXY": "http://h:1", "NO_PROXY": "*"}
    assert of_config(parse_config(network('"none"'), interface="nc0"), environ) == UNPROXIED
    found = of_config(parse_config(network('"http://10.0.0.1:3128"'), interface="nc0"), environ)
    assert (found.to("node.example", 1), found.source) == (PROXY, "[network] proxy")
    assert of_config(parse_config(FILE, interface="nc0"), environ).source == "HTTPS_PROXY"
