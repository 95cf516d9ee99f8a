from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.config.edit import (
    KEEP,
    PeerChange,
    add_offers,
    add_peer,
    new_file,
    remove_offers,
    remove_peer,
    set_peer,
)
from nconnect.config.file import parse_config
from nconnect.errors import ConfigError

KEYS = ["d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"]
TEXT = """\
# first
[interface]   # mine
seed = "00"

# about a
[[peer]]
name = "a"  # his name
allowed_ips = [
  "10.86.0.2/32",  # laptop
]
allow = ["192.168.50.10:8000/tcp"]

# about b
[[peer]]
name = "b"
expires = 2026-12-31T00:00:00Z

[network]
links = 1
"""


def peers_of(text: str) -> list[dict[str, object]]:
    peers: list[dict[str, object]] = tomllib.loads(text).get("peer", [])
    return peers


def test_a_new_file_is_a_configuration() -> None:
    text = new_file(
        seed=b"\x11" * 32,
        identifier="gpu-box",
        address=["10.86.0.1/24", "fd86::1/64"],
        seed_rpc=["http://203.0.113.7:30003"],
        provide=["192.168.50.0/24"],
        services=["8000/tcp"],
        expose=["127.0.0.1:11434"],
    )
    config = parse_config(text, interface="nc0")
    assert config.seed == b"\x11" * 32
    assert config.identifier == "gpu-box"
    assert [str(a) for a in config.address] == ["10.86.0.1/24", "fd86::1/64"]
    assert config.network.seed_rpc == ("http://203.0.113.7:30003",)
    assert [str(s.real) for s in config.provide.subnets] == ["192.168.50.0/24"]
    assert len(config.provide.services) == len(config.provide.expose) == 1


def test_a_new_file_has_no_empty_sections() -> None:
    text = new_file(seed=b"\x11" * 32, identifier="x", address=["10.86.0.2/24"])
    assert set(tomllib.loads(text)) == {"interface"}


def test_add_keeps_everything_and_puts_the_peer_last() -> None:
    text = add_peer(
        TEXT, name="c", address=f"c.{KEYS[0]}", allowed_ips=["10.86.0.4"], allow=[], expires_at=1.9e9
    )
    assert text.startswith(TEXT.rstrip())
    assert [peer["name"] for peer in peers_of(text)] == ["a", "b", "c"]
    assert peers_of(text)[2]["allow"] == []
    assert "\n\n[[peer]]\n" in text.removeprefix(TEXT.rstrip())
    assert "expires = 2030-03-17T17:46:40Z\n" in text
    assert "preshared_key" not in text


def test_without_allow_the_key_is_absent() -> None:
    text = add_peer("", name="c", address="x", allowed_ips=["10.86.0.4"], preshared_key="k")
    assert peers_of(text) == [
        {"name": "c", "address": "x", "allowed_ips": ["10.86.0.4"], "preshared_key": "k"}
    ]


@given(st.text(), st.text(), st.lists(st.text()))
def test_any_text_is_written_so_that_it_is_read_back(name: str, address: str, allowed_ips: list[str]) -> None:
    try:
        text = add_peer(TEXT, name=name, address=address, allowed_ips=allowed_ips)
    except (ConfigError, UnicodeError):
        assert name in ("a", "b")
    else:
        assert peers_of(text)[2] == {"name": name, "address": address, "allowed_ips": allowed_ips}


def test_set_keeps_comments_and_what_is_not_named() -> None:
    text = set_peer(TEXT, "a", PeerChange(allow=("192.168.50.11/icmp",), expires_at=1.9e9))
    assert "# his name" in text
    assert "# laptop" in text
    assert "# about b" in text
    changed, other = peers_of(text)
    assert changed["allowed_ips"] == ["10.86.0.2/32"]
    assert changed["allow"] == ["192.168.50.11/icmp"]
    assert changed["expires"].timestamp() == 1.9e9  # type: ignore[attr-defined]
    assert other == peers_of(TEXT)[1]


def test_set_nothing_changes_nothing() -> None:
    assert set_peer(TEXT, "a", PeerChange()) == TEXT
    assert set_peer(TEXT, "a", PeerChange(name="a", allowed_ips=("10.86.0.2/32",))) == TEXT


def test_none_deletes_and_empty_stays() -> None:
    assert peers_of(set_peer(TEXT, "a", PeerChange(allow=())))[0]["allow"] == []
    assert "allow" not in peers_of(set_peer(TEXT, "a", PeerChange(allow=None)))[0]
    assert "expires" not in peers_of(set_peer(TEXT, "b", PeerChange(expires_at=None)))[1]
    assert PeerChange().allow is KEEP


def test_set_can_rename() -> None:
    assert [peer["name"] for peer in peers_of(set_peer(TEXT, "a", PeerChange(name="z")))] == ["z", "b"]


def test_remove() -> None:
    text = remove_peer(TEXT, "a")
    assert [peer["name"] for peer in peers_of(text)] == ["b"]
    assert tomllib.loads(text)["network"] == {"links": 1}
    text = remove_peer(text, "b")
    assert set(tomllib.loads(text)) == {"interface", "network"}
    assert "# first" in text


def test_adding_and_removing_again_and_again_does_not_grow_the_file() -> None:
    text = TEXT
    for _ in range(5):
        text = remove_peer(add_peer(text, name="c", address="x", allowed_ips=["10.86.0.4"]), "c")
    assert len(text) <= len(TEXT) + 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TEXT, "did you mean 'a'?"),
        ("", "there is none yet"),
        ("[[peer]]\nname = 'zzz'", "there are zzz"),
        ("peer = 3", "sections written [[peer]]"),
        ("[peer]\nname = 'a'", "sections written [[peer]]"),
        ("x = = 1", "not TOML"),
    ],
)
def test_refused(text: str, says: str) -> None:
    for edit in (lambda: set_peer(text, "aa", PeerChange(allow=())), lambda: remove_peer(text, "aa")):
        with pytest.raises(ConfigError) as caught:
            edit()
        assert says in str(caught.value)


def test_add_refuses_a_name_that_is_taken() -> None:
    with pytest.raises(ConfigError, match="there is already a peer 'a'"):
        add_peer(TEXT, name="a", address="x", allowed_ips=[])


def test_a_layout_that_defeats_editing_is_refused_and_not_mangled() -> None:
    with pytest.raises(ConfigError, match="with an editor"):
        add_peer("peer = [{name = 'a'}]\n", name="b", address="x", allowed_ips=[])


PROVIDE = """\
[provide]  # mine
subnets = [
  "192.168.50.0/24",  # the lab
  "192.168.1.0/24=10.99.1.0/24",  # the office
]
services = ["8000/tcp"]  # a model
mtu = 1400

[[peer]]
name = "a"
"""


def offers_of(text: str) -> dict[str, object]:
    offers: dict[str, object] = tomllib.loads(text)["provide"]
    return offers


def test_add_offers_keeps_comments() -> None:
    text = add_offers(PROVIDE, {"subnets": ["fd50::/64"], "services": [], "expose": ["127.0.0.1:11434"]})
    assert offers_of(text) == {
        "subnets": ["192.168.50.0/24", "192.168.1.0/24=10.99.1.0/24", "fd50::/64"],
        "services": ["8000/tcp"],
        "expose": ["127.0.0.1:11434"],
        "mtu": 1400,
    }
    for comment in ("# mine", "# the lab", "# the office", "# a model"):
        assert comment in text
    assert text.index("fd50") < text.index("# a model") < text.index("[[peer]]")


def test_the_first_offer_makes_the_section() -> None:
    text = add_offers(TEXT, {"services": ["8000/tcp"]})
    assert text == TEXT + '\n[provide]\nservices = ["8000/tcp"]\n'
    assert add_offers("", {"services": ["8000/tcp"]}) == '[provide]\nservices = ["8000/tcp"]\n'


def test_remove_offers_keeps_the_others_and_their_comments() -> None:
    text = remove_offers(PROVIDE, {"subnets": ["192.168.50.0/24"], "services": ["8000-8000/tcp"]})
    assert offers_of(text) == {"subnets": ["192.168.1.0/24=10.99.1.0/24"], "services": [], "mtu": 1400}
    assert "# the office" in text
    assert "# a model" in text
    assert "# the lab" not in text
    both = ["192.168.50.0/24", "192.168.1.0/24=10.99.1.0/24"]
    assert offers_of(remove_offers(PROVIDE, {"subnets": both}))["subnets"] == []


@pytest.mark.parametrize(
    ("offers", "says"),
    [
        ({"subnets": ["192.168.51.0/24"]}, "no subnet '192.168.51.0/24': did you mean '192.168.50.0/24'?"),
        ({"subnets": ["192.168.1.0/24"]}, "did you mean '192.168.1.0/24=10.99.1.0/24'?"),
        ({"subnets": ["10.99.1.0/24"]}, "did you mean '192.168.1.0/24=10.99.1.0/24'?"),
        ({"services": ["53/udp", "8000/tcp"]}, "no service '53/udp': there are 8000/tcp"),
        ({"services": ["8000/tcp", "8000/tcp"]}, "no service '8000/tcp': there is none yet"),
        ({"expose": ["127.0.0.1:80"]}, "no exposed server '127.0.0.1:80': there is none yet"),
    ],
)
def test_what_is_not_offered_cannot_be_removed(offers: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        remove_offers(PROVIDE, offers)
    assert len(caught.value.problems) == 1
    assert says in str(caught.value)


def test_what_is_offered_cannot_be_added_in_other_words_either() -> None:
    with pytest.raises(ConfigError) as caught:
        add_offers(PROVIDE, {"subnets": ["10.0.0.1", "10.0.0.1/32"], "services": ["8000-8000/tcp"]})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "there is already a subnet '10.0.0.1/32'",
        "there is already a service '8000-8000/tcp'",
    ]


@pytest.mark.parametrize("text", ["provide = 3", "[provide]\nsubnets = 3", "[provide]\nsubnets = [3]"])
def test_offers_that_are_no_lists_are_refused(text: str) -> None:
    for edit in (add_offers, remove_offers):
        with pytest.raises(ConfigError, match="is not a list of strings"):
            edit(text, {"subnets": ["10.0.0.0/8"]})
