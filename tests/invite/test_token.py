from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.crypto.keys import Identity
from nconnect.errors import ConfigError
from nconnect.invite import token as module
from nconnect.invite.token import PREFIX, Token, TokenKeys
from nconnect.model import NknAddress
from tests.invite.examples import PROVIDER, TOKEN

LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"

identifiers = st.from_regex(r"[A-Za-z0-9_-]{0,20}", fullmatch=True).filter(lambda t: not t.startswith("__"))
seeds = st.lists(
    st.builds(
        "http://{}.example:{}".format, st.from_regex(r"[a-z]{1,20}", fullmatch=True), st.integers(1, 65535)
    ),
    max_size=4,
    unique=True,
)
tokens = st.builds(
    lambda identifier, key, token_id, secret, seeds: Token(
        NknAddress(identifier, Identity(key).public_key), token_id, secret, tuple(seeds)
    ),
    identifiers,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
    seeds,
)


@given(tokens)
def test_what_is_written_is_read(token: Token) -> None:
    assert Token.parse(token.encode()) == token


def test_golden() -> None:
    """Tokens travel between versions: the text must not change."""
    text = TOKEN.encode()
    assert text == GOLDEN
    assert set(text.removeprefix(PREFIX)) <= set(LETTERS)


def test_the_text_is_read_as_people_pass_it_on() -> None:
    text = TOKEN.encode()
    wrapped = "\n  ".join(text[i : i + 40] for i in range(0, len(text), 40))
    dashed = PREFIX + "-".join(text[4:][i : i + 8] for i in range(0, len(text) - 4, 8))
    confused = PREFIX + text[4:].replace("0", "o").replace("1", "I")
    for passed_on in (text.upper(), f"  {text}\n", wrapped, dashed, confused):
        assert Token.parse(passed_on) == TOKEN


@given(st.integers(4, len(TOKEN.encode()) - 1), st.sampled_from(LETTERS))
def test_one_wrong_letter_is_found(place: int, letter: str) -> None:
    text = TOKEN.encode()
    wrong = text[:place] + letter + text[place + 1 :]
    if wrong == text:
        return
    with pytest.raises(ConfigError, match="mistyped"):
        Token.parse(wrong)


@given(st.integers(4, len(TOKEN.encode()) - 2))
def test_two_letters_exchanged_are_found(place: int) -> None:
    text = TOKEN.encode()
    wrong = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    if wrong == text:
        return
    with pytest.raises(ConfigError, match="mistyped"):
        Token.parse(wrong)


@given(st.integers(4, len(TOKEN.encode()) - 1))
def test_a_part_is_found(length: int) -> None:
    with pytest.raises(ConfigError, match="mistyped or cut short"):
        Token.parse(TOKEN.encode()[:length])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with nc1-"),
        ("hello", "begins with nc1-"),
        ("nc2-abc", "another version"),
        ("nc1-", "mistyped or cut short"),
        ("nc1-abcü", "'ü', character 8, is in no token"),
        ("nc1-u", "'u', character 5"),
        ("nc1-" + "0" * 5000, "too long"),
    ],
)
def test_what_is_no_token(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Token.parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_refused_or_read(text: str) -> None:
    for candidate in (text, PREFIX + text):
        try:
            Token.parse(candidate)
        except ConfigError:
            pass


def test_an_error_does_not_repeat_the_token() -> None:
    text = TOKEN.encode()
    for wrong in (text[:-1], text[:30] + "!" + text[31:]):
        with pytest.raises(ConfigError) as caught:
            Token.parse(wrong)
        assert text[4:20] not in str(caught.value)


@given(st.binary(max_size=300))
def test_any_content_with_a_right_checksum_is_refused_or_read(body: bytes) -> None:
    text = PREFIX + module._to_text(body + module._checksum(body))
    try:
        token = Token.parse(text)
    except ConfigError:
        return
    assert token.encode() == text


@given(tokens, st.binary(min_size=1, max_size=4))
def test_nothing_may_follow(token: Token, more: bytes) -> None:
    body = module._to_bytes(token.encode()[4:])[:-4] + more
    with pytest.raises(ConfigError, match="the token is invalid"):
        Token.parse(PREFIX + module._to_text(body + module._checksum(body)))


def test_a_key_that_is_none_is_refused() -> None:
    bad = Token(NknAddress("gpu-box", b"\x00" * 32), TOKEN.token_id, TOKEN.secret)
    with pytest.raises(ConfigError, match="the token is invalid"):
        Token.parse(bad.encode())


def test_a_pin_costs_33_bytes_and_comes_back() -> None:
    seeds = tuple(f"https://n{i}.example:443#sha256={i:064x}" for i in range(3))
    pinned, without = (
        replace(TOKEN, seeds=seeds),
        replace(TOKEN, seeds=tuple(s[: s.index("#")] for s in seeds)),
    )
    assert Token.parse(pinned.encode()) == pinned
    assert len(pinned.encode()) - len(without.encode()) == pytest.approx(3 * 33 * 8 / 5, abs=1)


@pytest.mark.parametrize("seed", [b"http://h:1#" + bytes(32), b"https://h:1#" + bytes(31), b"https://h:1#"])
def test_a_seed_with_a_bad_pin_is_refused(seed: bytes) -> None:
    head = bytes([0]) + TOKEN.provider.public_key + TOKEN.token_id + TOKEN.secret
    body = head + bytes([1, len(seed)]) + seed
    with pytest.raises(ConfigError, match="the token is invalid"):
        Token.parse(PREFIX + module._to_text(body + module._checksum(body)))


def test_too_many_seeds_cannot_be_written() -> None:
    many = tuple(f"http://203.0.113.{n}:30003" for n in range(9))
    with pytest.raises(ConfigError, match="at most 8"):
        Token(PROVIDER, TOKEN.token_id, TOKEN.secret, many).encode()
    with pytest.raises(ConfigError, match="too long"):
        Token(PROVIDER, TOKEN.token_id, TOKEN.secret, (f"http://{'a' * 300}:1",)).encode()


def test_the_keys_differ_and_do_not_show() -> None:
    keys = TokenKeys.of(TOKEN.secret)
    assert len({keys.mac, keys.preshared, TOKEN.secret}) == 3
    assert keys != TokenKeys.of(bytes(16))
    for shown in (repr(keys), repr(TOKEN)):
        assert TOKEN.secret.hex() not in shown
        assert repr(TOKEN.secret) not in shown
        assert repr(keys.mac) not in shown


GOLDEN = (
    "nc1-0xkq0x9dc9qqh2m8wfeq82fhjqyn5psd7jx5twpacw4vy7cm28dz6x4806t0yvtwehqppsbe5nmp8wv5"
    "cds6ax10dxk20wv9f1t6as8131m78x3g78qjychg6cq30bhh64sjwdst6cr30c1kcf9apbg"
)
