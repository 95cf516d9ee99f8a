"""TLS as a client: contexts that are made once, pinned certificates, and failures in words."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from functools import cache

from nconnect.config.proxy import Proxies
from nconnect.config.seed_url import PIN
from nconnect.errors import NconnectError, TlsError
from nconnect.io.net.dial import dial
from nconnect.io.net.tls_socket import tls_handshake
from nconnect.model import join_addr

_LOOK_S = 2.0  # guessed: for a second handshake, to see the certificate that was refused

# <openssl/x509_vfy.h>
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED, _SELF_SIGNED_IN_CHAIN = 9, 10, 18, 19
_UNKNOWN_ISSUER = (2, 20, 21, 27)
_WRONG_NAME = (62, 64)

# OpenSSL's reasons for a first answer that is no TLS record (and the newer one for a record that is none).
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG",
           "RECORD_LAYER_FAILURE", "BAD_RECORD_TYPE")  # fmt: skip


@cache
def verifying() -> ssl.SSLContext:
    """A context that checks name, dates and issuer. Shared: loading the authorities blocks for 20 ms."""
    return ssl.create_default_context()


@cache
def unverifying() -> ssl.SSLContext:
    """A context that checks nothing: for pinned certificates, or where TLS is not a proof."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def context_for(pin: str | None, *, verify: bool = True) -> ssl.SSLContext:
    """The context for a handshake. If there is a pin, `check_pin` must follow."""
    return await asyncio.to_thread(verifying) if pin is None and verify else unverifying()


def check_pin(pin: str, certificate: bytes | None, server: str) -> None:
    """Raise `TlsError` unless the server's certificate (DER) has this SHA-256 (hex)."""
    seen = hashlib.sha256(certificate or b"").hexdigest()
    if not hmac.compare_digest(seen, pin):
        raise TlsError(
            f"{server}: the certificate is not the one that the seed URL names (sha256 {seen})",
            "somebody may be in between, or the node has a new one (`nconnect node status` there shows it)",
        )


async def explained(
    error: ssl.SSLError,
    host: str,
    port: int,
    proxies: Proxies,
    *,
    plain: str,
    now: Callable[[], float] = time.time,
) -> TlsError:
    """A failed handshake in words, with what to do. `plain`: the scheme of the URL without TLS.

    The fingerprint of a refused certificate is read in a second handshake.
    """
    server = join_addr(host, port)
    if not isinstance(error, ssl.SSLCertVerificationError):
        if error.reason in _NO_TLS:
            return TlsError(f"{server} does not speak TLS", f"is it {plain}://?")
        return TlsError(f"{server}: TLS failed: {_plain(error)}", "look whether it is the right port")
    pin = await _fingerprint(host, port, proxies)
    shown = f"if its owner confirms the fingerprint, pin it: https://{server}{PIN}{pin}" if pin else (
        "ask its owner for a seed URL with a fingerprint (#sha256=…)")  # fmt: skip
    code = error.verify_code
    today = time.strftime("%Y-%m-%d", time.gmtime(now()))
    if code in (_NOT_YET_VALID, _EXPIRED):
        what = "is not valid yet" if code == _NOT_YET_VALID else "has expired"
        clock = f"this device's clock says {today}: set it if that is wrong (`timedatectl set-ntp true`)"
        return TlsError(f"{server}: its certificate {what}", f"{clock}; else, {shown}")
    if code == _SELF_SIGNED:
        what = "its certificate is self-signed"
    elif code == _SELF_SIGNED_IN_CHAIN or code in _UNKNOWN_ISSUER:
        what = "its certificate is from an authority that this device does not know"
    elif code in _WRONG_NAME:
        what = f"its certificate is for another name than {host}"
    else:
        what = f"its certificate is refused ({error.verify_message})"
    return TlsError(f"{server}: {what}", shown)


async def speaks_tls(host: str, port: int, proxies: Proxies) -> bool:
    """Whether the server completes a TLS handshake within `_LOOK_S`, with any certificate."""
    return await _fingerprint(host, port, proxies) is not None


async def _fingerprint(host: str, port: int, proxies: Proxies) -> str | None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_LOOK_S):
            sock = await dial(host, port, proxies.to(host, port), admit=proxies.admit)
            secure = await tls_handshake(loop, sock, unverifying(), host)
    except (OSError, TimeoutError, NconnectError):
        return None
    try:
        return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
    finally:
        secure.close()


def _plain(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
