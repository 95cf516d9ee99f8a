"""What `up` decides by itself; that it runs, and takes everything back, is in netns_tests."""

from __future__ import annotations

import dataclasses

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.daemon import up
from nconnect.errors import ConfigError
from nconnect.model import (
    PUBLIC_SEED_RPC,
    Config,
    NetworkConfig,
    NodeConfig,
)
from nconnect.tunnel.constants import REKEY_AFTER_S

BARE = Config("nc7", bytes(32), "gpu", ())


@pytest.mark.parametrize(
    ("listen", "seed"),
    [
        ("0.0.0.0", "http://127.0.0.1:7003"),
        ("", "http://127.0.0.1:7003"),
        ("203.0.113.7", "http://203.0.113.7:7003"),
        ("fd00::1", "http://[fd00::1]:7003"),
    ],
)
def test_a_node_of_our_own_is_our_seed_unless_another_is_named(listen: str, seed: str) -> None:
    config = dataclasses.replace(BARE, node=NodeConfig(listen, rpc_port=7003))
    assert up._seeds(config) == (seed,)
    named = dataclasses.replace(config, network=NetworkConfig(seed_rpc=("http://other:30003",)))
    assert up._seeds(named) == ("http://other:30003",)
    assert up._seeds(BARE) == PUBLIC_SEED_RPC


def test_the_cipher_is_the_named_one_or_the_faster() -> None:
    assert up._suite("aes256gcm") is CipherSuite.AES256GCM
    assert up._suite("chacha20poly1305") is CipherSuite.CHACHA20POLY1305
    assert up._suite("auto") in CipherSuite


def test_keys_can_be_renewed_earlier_and_never_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(up.REKEY_VARIABLE, raising=False)
    assert up._rekey_after_s() == REKEY_AFTER_S
    monkeypatch.setenv(up.REKEY_VARIABLE, "2.5")
    assert up._rekey_after_s() == 2.5
    for word in ("121", "0", "-1", "nan", "inf", "soon"):
        monkeypatch.setenv(up.REKEY_VARIABLE, word)
        with pytest.raises(ConfigError, match=up.REKEY_VARIABLE):
            up._rekey_after_s()
