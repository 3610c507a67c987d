"""Running another IPAM plugin for ours: the same configuration, the same environment."""

from __future__ import annotations

import asyncio
import json
import os
import shutil

from weaver.cni.config import OWN_IPAM, Call, Json
from weaver.cni.errors import CniError, Code

TIMEOUT = 30.0
"""Seconds: host-local takes milliseconds, dhcp as long as its servers."""

MAX_OUTPUT = 1 << 20


def find_delegate(call: Call) -> str | None:
    """The path of the IPAM plugin that the configuration names; None for our own."""
    kind = call.ipam_type
    if kind == OWN_IPAM:
        return None
    found = shutil.which(kind, path=call.path)
    if found is None:
        raise CniError(Code.BAD_CONFIG, f"no IPAM plugin {kind} in CNI_PATH")
    return found


async def run_delegate(path: str, call: Call, command: str) -> Json:
    """Its result. Raises CniError: what it said itself, or that it said nothing of use."""
    environ = {**call.environ, "CNI_COMMAND": command, "PATH": os.environ.get("PATH", "")}
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environ,
            limit=MAX_OUTPUT,
        )
    except OSError as err:
        raise CniError(Code.DELEGATE, f"cannot run {path}: {err.strerror}") from err
    try:
        async with asyncio.timeout(TIMEOUT):
            out = await _talk(process, call.raw)
            status = await process.wait()
    except TimeoutError as err:
        raise CniError(Code.DELEGATE, f"{path} did not answer", "delegate-timeout") from err
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _judged(path, status, out)


async def _talk(process: asyncio.subprocess.Process, stdin: bytes) -> bytes:
    """Say all, hear at most MAX_OUTPUT octets and one."""
    assert process.stdin is not None
    assert process.stdout is not None
    out = b""
    try:
        process.stdin.write(stdin)
        await process.stdin.drain()
        process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it did not want to hear all of it: what it says counts
    while len(out) <= MAX_OUTPUT and (piece := await process.stdout.read(65536)):
        out += piece
    if len(out) > MAX_OUTPUT:
        process.kill()
    return out


def _judged(path: str, status: int, out: bytes) -> Json:
    try:
        said = json.loads(out or b"{}")
    except (ValueError, RecursionError) as err:
        raise CniError(Code.DELEGATE, f"{path} printed no JSON", "delegate-failed") from err
    if not isinstance(said, dict):
        raise CniError(Code.DELEGATE, f"{path} printed no JSON object", "delegate-failed")
    if status == 0:
        return said
    code = said.get("code")
    raise CniError(
        code if isinstance(code, int) and code > 0 else Code.DELEGATE,
        f"{path}: {said.get('msg') or f'failed with status {status}'}",
        str(said.get("details") or "delegate-failed"),
    )
