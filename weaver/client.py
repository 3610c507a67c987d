"""HTTP to a daemon over its Unix socket: the standard library's lightest way there."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

DEFAULT_SOCKET = "/run/weaver/weaver.sock"
TIMEOUT = 60.0
GONE_TIMEOUT = 15.0
"""Seconds a daemon may take to end: calls under way are waited for."""


class NoDaemonError(Exception):
    """Nobody listens on the socket."""


class RefusedError(Exception):
    """The daemon said no; ``reason`` is its stable word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


class Client:
    def __init__(self, path: str | Path | None = None) -> None:
        self.path = str(path or os.environ.get("WEAVER_SOCKET") or DEFAULT_SOCKET)

    def get(self, path: str) -> Any:  # noqa: ANN401  # JSON, or text where the route gives text
        return self._ask("GET", path, None)

    def post(self, path: str, **body: Any) -> Any:  # noqa: ANN401
        return self._ask("POST", path, body)

    def delete(self, path: str, **body: Any) -> Any:  # noqa: ANN401
        return self._ask("DELETE", path, body)

    def wait_until_gone(self) -> bool:
        """Whether the daemon has let everything go: removing its socket is the last it does."""
        deadline = time.monotonic() + GONE_TIMEOUT
        while Path(self.path).exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:  # noqa: ANN401
        connection = _UnixConnection(self.path)
        data = None if body is None else json.dumps(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            text = response.read().decode()
        except PermissionError as err:
            raise RefusedError(
                "socket-forbidden", f"only its owner may use {self.path}: are you root?"
            ) from err
        except TimeoutError as err:
            raise RefusedError(
                "timed-out", f"no answer on {self.path} within {TIMEOUT:.0f} s"
            ) from err
        except (OSError, http.client.HTTPException) as err:
            why = getattr(err, "strerror", None) or err
            raise NoDaemonError(f"no weaver answers on {self.path}: {why}") from err
        finally:
            connection.close()
        if "json" not in (response.getheader("Content-Type") or ""):
            return text
        answer = json.loads(text)
        if response.status >= 400:
            said = answer.get("error", {})
            raise RefusedError(said.get("reason", "error"), said.get("message", text))
        return answer
