"""The bundle for a bug report: what is needed to understand the problem, without secrets."""

from __future__ import annotations

import base64
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from nconnect import __version__
from nconnect.doctor.redact import redact
from nconnect.errors import HostError
from nconnect.io.errors import as_host_error
from nconnect.io.files import paths
from nconnect.io.files.trusted import create_file, open_path
from nconnect.model import Address, Config, Proxy

LOG_BYTES = 512 * 1024  # of the log's end


def secrets_of(config: Config | None) -> tuple[bytes, ...]:
    """The raw bytes that must not appear anywhere."""
    if config is None:
        return ()
    from nconnect.crypto.keys import Identity

    keys = [config.seed, *(peer.preshared_key for peer in config.peers if peer.preshared_key)]
    keys.append(Identity(config.seed).dh_private)
    return tuple(key for key in keys if any(key))


def words_of(config: Config | None) -> tuple[str, ...]:
    """The login of the proxy in all forms: as in the file, in the environment, in a request."""
    proxy = config.network.proxy if config is not None else None
    if not isinstance(proxy, Proxy) or not proxy.username:
        return ()
    basic = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    return tuple(dict.fromkeys([proxy.password, quote(proxy.password, safe=""), basic]))


def public_of(config: Config | None) -> tuple[bytes, ...]:
    """The keys that may be shown, because they are part of addresses."""
    if config is None:
        return ()
    from nconnect.crypto.keys import Identity

    return (Identity(config.seed).public_key, *(peer.address.public_key for peer in config.peers))


def write(
    target: Path,
    *,
    interface: str,
    config: Config | None,
    config_text: str,
    findings: Sequence[object],
    status: object,
    addresses: Collection[Address],
    outputs: Mapping[str, str],
) -> list[str]:
    """Write the bundle (a .tar.gz, mode 0600); the names in it. Raises `HostError` when it cannot.

    Every text in it goes through `redact`, whatever it is, which also removes `addresses`. An existing file
    is not overwritten.
    """
    log_path = paths.log_path(interface)
    try:
        with open(open_path(log_path), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_BYTES))
            data = log.read(LOG_BYTES).decode(errors="replace")
    except OSError:
        data = ""
    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": _os_release(),
        "made_at": int(time.time()),
    }
    texts = {
        "about.json": json.dumps(facts, indent=1),
        "doctor.json": json.dumps(list(findings), indent=1),
        "status.json": json.dumps(status, indent=1),
        f"{interface}.toml": config_text,
        "nconnect.log": data,
        **outputs,
    }
    secrets, public, words = secrets_of(config), public_of(config), words_of(config)
    try:
        with as_host_error(f"cannot write {target}", passes=FileExistsError):
            fd = create_file(target)
    except FileExistsError:
        raise HostError(f"{target} exists already: give --report another name") from None
    with open(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, text in texts.items():
            clean = redact(text, secrets=secrets, public=public, words=words, addresses=addresses)
            raw = clean.encode()
            entry = tarfile.TarInfo(f"nconnect-report/{name}")
            entry.size, entry.mode, entry.mtime = len(raw), 0o600, int(time.time())
            bundle.addfile(entry, io.BytesIO(raw))
    return list(texts)


def _os_release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""
