"""`[[provide.server]]` and `[control] readers`."""

from __future__ import annotations

import pytest

from nconnect.config.edit import add_reader
from nconnect.config.file import parse_config
from nconnect.config.servers import parse_server_url
from nconnect.errors import ConfigError
from nconnect.host.offered import provides, reachable_exposed
from nconnect.model import Config, Exposed

HEAD = f"""[interface]
seed = "{"11" * 32}"
address = ["10.86.0.1/24"]
"""


def parsed(text: str) -> Config:
    return parse_config(HEAD + text, interface="nc0")


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    return caught.value.problems


def server(name: str, url: str) -> str:
    return f'[[provide.server]]\nname = "{name}"\nurl = "{url}"\n'


@pytest.mark.parametrize(
    ("text", "url", "port", "local"),
    [
        ("http://127.0.0.1:11434/", "http://127.0.0.1:11434", 11434, True),
        ("http://localhost:8888/lab", "http://127.0.0.1:8888/lab", 8888, True),
        ("https://192.168.50.10", "https://192.168.50.10", 443, False),
        ("http://[fd00:50::7]:8000/v1/", "http://[fd00:50::7]:8000/v1", 8000, False),
        ("http://[fd00:50::7]", "http://[fd00:50::7]", 80, False),
    ],
)
def test_a_url_is_read_and_written(text: str, url: str, port: int, local: bool) -> None:
    read = parse_server_url("a", text)
    assert (read.url, read.port, read.is_local) == (url, port, local)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ftp://10.0.0.1", "http:// or https://"),
        ("10.0.0.1:80", "http:// or https://"),
        ("http://", "http:// or https://"),
        ("http://10.0.0.1:99999", "is not a URL"),
        ("http://[10.0.0.1", "is not a URL"),
        ("http://box.lan:80", "a name that peers cannot look up"),
        ("http://me:secret@10.0.0.1", "a URL with a password"),
        ("http://10.0.0.1/?a", "a query or a fragment"),
        ("http://[::1]:80", "leads no peer to ::1"),
        ("http://0.0.0.0:80", "not an address of a server"),
        ("http://169.254.169.254", "not an address of a server"),
        ("http://10.0.0.1/\x1b[2J", "is not a URL"),
        ("http://10.0.0.1/" + "x" * 300, "at most 255"),
    ],
)
def test_another_url_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why.replace("(", r"\(")) as caught:
        parse_server_url("a", text)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_server_on_loopback_is_exposed_and_one_in_a_subnet_stays() -> None:
    config = parsed(
        '[provide]\nsubnets = ["192.168.50.0/24"]\nexpose = ["127.0.0.1:80"]\n'
        + server("ollama", "http://127.0.0.1:11434")
        + server("vllm", "http://192.168.50.10:8000")
    )
    assert reachable_exposed(config) == (Exposed("127.0.0.1", 80), Exposed("127.0.0.1", 11434))
    assert [each.name for each in config.provide.servers] == ["ollama", "vllm"]
    assert provides(parsed(server("ollama", "http://127.0.0.1:11434")))


def test_a_server_that_is_exposed_already_is_exposed_once() -> None:
    config = parsed('[provide]\nexpose = ["127.0.0.1:80"]\n' + server("web", "http://127.0.0.1"))
    assert reachable_exposed(config) == (Exposed("127.0.0.1", 80),)


def test_mistakes_are_told_with_their_lines() -> None:
    text = server("a", "http://127.0.0.1:1") + server("a", "http://10.1.2.3") + "[[provide.server]]\nx = 1\n"
    assert problems(text) == (
        "nc0.toml:8: [provide.server] name: there is another server 'a': give each its own name",
        'nc0.toml:9: [provide.server] url: 10.1.2.3 is in no provided subnet: add subnets = ["10.1.2.3/32"]',
        'nc0.toml:10: [provide.server] name: missing: write name = "ollama"',
        'nc0.toml:10: [provide.server] url: missing: write url = "http://127.0.0.1:11434"',
        "nc0.toml:11: [provide.server] x: unknown: known are name, names, url",
    )
    assert "two brackets" in problems('[provide.server]\nname = "a"\n')[0]


def test_one_port_of_the_tunnel_address_is_one_server() -> None:
    text = server("a", "http://127.0.0.1:1") + server("b", "http://127.0.0.2:1")
    assert "port 1 is there twice" in problems(text)[0]


def host(name: str, address: str) -> str:
    return f'[[provide.host]]\nname = "{name}"\naddress = "{address}"\n'


def test_hosts_in_a_subnet_and_this_machine_have_names_and_open_nothing() -> None:
    text = '[provide]\nsubnets = ["192.168.50.0/24"]\n' + host("nas", "192.168.50.20")
    config = parsed(text + host("box", "10.86.0.1"))
    assert [(each.name, str(each.address)) for each in config.provide.hosts] == [
        ("nas", "192.168.50.20"),
        ("box", "10.86.0.1"),
    ]
    assert reachable_exposed(config) == ()
    assert not parsed(host("box", "10.86.0.1")).provide.offers_something


def test_a_host_that_no_peer_could_reach_or_whose_name_is_taken_is_refused_with_its_line() -> None:
    text = (
        server("a", "http://127.0.0.1:1")
        + host("a", "10.86.0.1")
        + host("b", "10.1.2.3")
        + host("b", "10.86.0.1")
        + host("localhost", "127.0.0.1")
        + host("google.com", "nas.lan")
        + "[[provide.host]]\nx = 1\n"
    )
    assert problems(text) == (
        "nc0.toml:8: [provide.host] name: there is a server 'a': give each its own name",
        "nc0.toml:12: [provide.host] address: 10.1.2.3 is in no provided subnet:"
        ' add subnets = ["10.1.2.3/32"]',
        "nc0.toml:14: [provide.host] name: there is another host 'b': give each its own name",
        "nc0.toml:17: [provide.host] name: 'localhost' is not a host's name: write up to 63 lower-case"
        " letters, digits and hyphens, such as nas",
        "nc0.toml:18: [provide.host] address: 127.0.0.1 is not an address that peers could reach: write one"
        " in a provided subnet",
        "nc0.toml:20: [provide.host] name: 'google.com' is not a host's name: write up to 63 lower-case"
        " letters, digits and hyphens, such as nas",
        "nc0.toml:21: [provide.host] address: 'nas.lan' is not an address: write one in a provided subnet,"
        " such as 192.168.50.20",
        'nc0.toml:22: [provide.host] address: missing: write address = "192.168.50.20"',
        'nc0.toml:22: [provide.host] name: missing: write name = "nas"',
        "nc0.toml:23: [provide.host] x: unknown: known are name, address",
    )
    assert "two brackets" in problems('[provide.host]\nname = "a"\n')[0]
    many = "".join(host(f"h{n}", "10.86.0.1") for n in range(65))
    assert "more than 64" in problems(many)[0]


def test_readers() -> None:
    assert parsed("").readers == ()
    assert parsed('[control]\nreaders = ["alice", "bob"]\n').readers == ("alice", "bob")
    assert "not the name of a user" in problems('[control]\nreaders = ["a b"]\n')[0]


def test_a_reader_is_added_once_and_comments_stay() -> None:
    text = HEAD + "# a comment\n"
    once = add_reader(text, "alice")
    assert once.startswith(text)
    assert add_reader(once, "alice") == once
    assert parse_config(add_reader(once, "bob"), interface="nc0").readers == ("alice", "bob")
