"""The daemon's side of the device helper: one request at a time, started again when it dies."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mesh.errors import OperatorError

TIMEOUT = 20.0
"""Seconds for one request: a loaded machine's RCU waits are the longest part."""


class Network:
    """Devices of the host and of pods. Every method raises OperatorError with a stable reason."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def do(self, command: str, **request: Any) -> Any:  # noqa: ANN401  # JSON both ways
        """Run one command of ``weaver.daemon.nethelper``."""
        line = json.dumps({"do": command, **request}).encode() + b"\n"
        async with self._lock:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                async with asyncio.timeout(TIMEOUT):
                    process.stdin.write(line)
                    await process.stdin.drain()
                    data = await process.stdout.readline()
            except (TimeoutError, ConnectionError) as err:
                process.kill()
                raise OperatorError("the device helper does not answer", "helper-failed") from err
        if not data:
            raise OperatorError("the device helper died", "helper-failed")
        answer = json.loads(data)
        if "error" in answer:
            raise OperatorError(answer["error"], answer.get("reason", "kernel-refused"))
        return answer["ok"]

    async def start(self) -> None:
        async with self._lock:
            await self._running()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "weaver.daemon.nethelper",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        return self._process

    async def close(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(2):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
