"""Asking a running daemon, blocking: what the command line uses."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from nconnect.control.schema import OfferLine, PendingPeer, PingReply, Status, UsageReport, known
from nconnect.errors import ControlError, HostError
from nconnect.io.errors import reason
from nconnect.io.files.paths import asked_socket_path, is_locked
from nconnect.wire.text import visible

_TIMEOUT_S = 10.0  # for an answer beyond the time that the request itself may take
MAX_BODY = 64 << 20  # far above the status of 10,000 peers


class NotRunning(ControlError):
    """No daemon of this interface listens."""


class RequestRefused(ControlError):
    """The daemon refused the request, or could not be asked at all: nothing has changed."""


class Unreachable(RequestRefused):
    """A daemon of this interface runs, and its control socket is gone."""


class ControlTimeout(ControlError):
    """The daemon answered that the awaited event did not happen in time."""


class ControlClient:
    """The API of one interface's daemon; each call opens its own connection.

    Every call raises `ControlError` in one line: `NotRunning` if there is no daemon, `RequestRefused` if
    it did not do what was asked (`Unreachable`: its socket was removed), `ControlTimeout` if it did not
    happen in time. After any other error the daemon may or may not have done it.
    """

    def __init__(self, interface: str, path: Path | None = None) -> None:
        self.interface = interface
        self.path = path or asked_socket_path(interface)

    def status(self) -> Status:
        answer = self._ask("GET", "/v1/status")
        try:
            return Status.from_json(answer)
        except (KeyError, TypeError, ValueError):
            raise ControlError("the daemon's status cannot be read: is it of another version?") from None

    def wait(self, peer: str | None, timeout_s: float) -> None:
        """Return once the interface (and the peer's session) is up."""
        query = {"timeout_s": f"{timeout_s:g}"} | ({"peer": peer} if peer else {})
        self._ask("GET", f"/v1/wait?{urlencode(query)}", timeout_s=timeout_s)

    def pending(self) -> list[PendingPeer]:
        """The addresses that are not peers and tried to reach this interface, the latest last."""
        answer = self._ask("GET", "/v1/pending")
        try:
            return [
                PendingPeer(p["address"], p["first_at"], p["last_at"], p["count"]) for p in answer["pending"]
            ]
        except (KeyError, TypeError):
            raise ControlError("the daemon's answer cannot be read: is it of another version?") from None

    def used(self, since: float) -> UsageReport:
        """What peers used since then (Unix time)."""
        answer = self._ask("GET", f"/v1/usage?{urlencode({'since': f'{since:.0f}'})}")
        try:
            return UsageReport.from_json(answer)
        except (KeyError, TypeError, ValueError):
            raise ControlError("the daemon's answer cannot be read: is it of another version?") from None

    def offers(self) -> list[OfferLine]:
        """What the peers offer now."""
        answer = self._ask("GET", "/v1/offers")
        try:
            return [OfferLine(**known(OfferLine, each)) for each in answer["offers"]]
        except (KeyError, TypeError, AttributeError):
            raise ControlError("the daemon's answer cannot be read: is it of another version?") from None

    def reload(self) -> None:
        """Have the file read again. After `RequestRefused` nothing has changed; after others it may have."""
        self._ask("POST", "/v1/reload", timeout_s=20.0)

    def down(self) -> None:
        """Ask it to stop; it answers before it does."""
        self._ask("POST", "/v1/down")

    def ping(self, peer: str, timeout_s: float) -> PingReply:
        """One round trip to a peer's daemon."""
        answer = self._ask("POST", "/v1/ping", {"peer": peer, "timeout_s": timeout_s}, timeout_s=timeout_s)
        try:
            return PingReply.from_json(peer, answer)
        except (KeyError, TypeError, ValueError):
            raise ControlError("the daemon's answer cannot be read: is it of another version?") from None

    def is_running(self) -> bool:
        """Whether a daemon listens (it may still refuse)."""
        try:
            _connect(self.path, _TIMEOUT_S).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            pass
        return True

    def is_unreachable(self) -> bool:
        """Whether a daemon runs that cannot be asked: it has a device, but neither lock nor socket."""
        from nconnect.io.system.tun import is_held

        try:
            return is_held(self.interface) and not is_locked(self.interface) and not self.is_running()
        except HostError:
            return False  # the lock is somebody else's: then nothing can be said

    def _ask(
        self, method: str, target: str, content: object = None, *, timeout_s: float = 0.0
    ) -> dict[str, Any]:
        body = None if content is None else json.dumps(content)
        connection = _UnixConnection(self.path, timeout_s + _TIMEOUT_S)
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            status, data = response.status, response.read(MAX_BODY)
        except (FileNotFoundError, ConnectionRefusedError):
            if self.is_unreachable():
                raise Unreachable(
                    f"{self.interface} is up, but somebody removed {self.path}:"
                    " `nconnect doctor --fix` makes its folder again, and the daemon the rest"
                ) from None
            raise NotRunning(f"{self.interface} is not up: start it with `nconnect up`") from None
        except PermissionError:
            raise RequestRefused(f"may not ask the daemon of {self.interface}: try with sudo") from None
        except TimeoutError:
            raise ControlError(f"the daemon of {self.interface} does not answer: see its log") from None
        except OSError as error:
            raise ControlError(f"the daemon of {self.interface} is gone: {reason(error)}") from None
        except http.client.HTTPException:
            raise ControlError(
                f"{self.path} does not speak nconnect's API: is it another program's?"
            ) from None
        finally:
            connection.close()
        return _content(status, data)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = _connect(self._path, self._timeout_s)


def _connect(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _visible(value: Any) -> Any:
    """The same JSON value with texts that are safe to print."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list):
        return [_visible(item) for item in value]
    if isinstance(value, dict):
        return {visible(key): _visible(item) for key, item in value.items()}
    return value


def _content(status: int, data: bytes) -> dict[str, Any]:
    """The object in an answer. The daemon runs as another user, so its text must not move root's cursor."""
    try:
        content = _visible(json.loads(data))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ControlError("the daemon's answer cannot be read: is it of another version?")
    if status >= 400:
        error = str(content.get("error") or f"the daemon refused ({status})")
        if status == 504:
            raise ControlTimeout(error)
        raise RequestRefused(error) if status < 500 else ControlError(error)
    return content
