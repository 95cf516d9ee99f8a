"""What the parts are told; that `up` runs them, and takes everything back, is in netns_tests."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.daemon import settings
from nconnect.errors import ConfigError
from nconnect.model import (
    PUBLIC_SEED_RPC,
    Config,
    NetworkConfig,
    ProvideConfig,
    Service,
)
from nconnect.tunnel.constants import REKEY_AFTER_S
from nconnect.tunnel.outputs import Settings
from nconnect.wire.tunnel import Feature

BARE = Config("nc7", bytes(32), "gpu", ())


def test_a_node_of_our_own_is_our_seed_unless_another_is_named() -> None:
    own = "http://127.0.0.1:7003"
    assert settings.seeds(BARE, own) == (own,)
    named = dataclasses.replace(BARE, network=NetworkConfig(seed_rpc=("http://other:30003",)))
    assert settings.seeds(named, own) == ("http://other:30003",)
    assert settings.seeds(BARE, None) == PUBLIC_SEED_RPC


def told(**changes: Any) -> Settings:
    return settings.of_tunnel(dataclasses.replace(BARE, **changes), Feature.ALL)


def test_the_cipher_is_the_named_one_or_the_faster() -> None:
    assert told(cipher="aes256gcm").suite is CipherSuite.AES256GCM
    assert told(cipher="chacha20poly1305").suite is CipherSuite.CHACHA20POLY1305
    assert told(cipher="auto").suite in CipherSuite


def test_a_side_that_provides_nothing_keeps_its_sessions() -> None:
    assert told().persistent
    assert not told(provide=ProvideConfig(services=(Service((8000, 8000), "tcp"),))).persistent


def test_keys_can_be_renewed_earlier_and_never_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.REKEY_VARIABLE, raising=False)
    assert told().rekey_after_s == REKEY_AFTER_S
    monkeypatch.setenv(settings.REKEY_VARIABLE, "2.5")
    assert told().rekey_after_s == 2.5
    for word in ("121", "0", "-1", "nan", "inf", "soon"):
        monkeypatch.setenv(settings.REKEY_VARIABLE, word)
        with pytest.raises(ConfigError, match=settings.REKEY_VARIABLE):
            told()
