"""The kubelet's side of CRI, as tests need it: protobuf by field numbers, no generated code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import grpc

TIMEOUT = 40.0

Value = Any
Message = dict[int, list[Any]]


def encode(message: Mapping[int, Value]) -> bytes:
    """Field number -> a number, a text, octets, a message of its own, or a list of one of these."""
    out = b""
    for number, value in message.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, int):
                out += _varint(number << 3) + _varint(one)
                continue
            body: bytes = encode(one) if isinstance(one, Mapping) else one
            if isinstance(one, str):
                body = one.encode()
            out += _varint(number << 3 | 2) + _varint(len(body)) + body
    return out


def decode(data: bytes) -> Message:
    """Field number -> its values: numbers, or octets."""
    found: Message = {}
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, at = _read_varint(data, at)
        values = found.setdefault(key >> 3, [])
        if key & 7 == 0:
            values.append(number)
            continue
        assert key & 7 == 2, key
        values.append(data[at : at + number])
        at += number
    return found


class Cri:
    """One runtime, asked as kubelet asks."""

    def __init__(self, socket: Path, logs: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._logs = logs

    def close(self) -> None:
        self._channel.close()

    def call(self, method: str, message: Mapping[int, Value]) -> Message:
        """Raises grpc.RpcError."""
        ask = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=encode,
            response_deserializer=decode,
        )
        return cast("Message", ask(message, timeout=TIMEOUT))

    def sandbox(self, name: str, ports: Mapping[int, int] | None = None) -> Sandbox:
        """Run a pod's sandbox; ``ports``: of the host, with those of the pod."""
        config: dict[int, Value] = {
            1: {1: name, 2: f"uid-{name}", 3: "default", 4: 1},
            2: name,
            3: str(self._logs),
            5: [{1: 0, 2: inside, 3: outside} for outside, inside in (ports or {}).items()],
            6: [{1: "app", 2: name}],
            8: b"",
        }
        answer = self.call("RunPodSandbox", {1: config})
        return Sandbox(self, answer[1][0].decode(), config)


class Sandbox:
    def __init__(self, cri: Cri, number: str, config: Mapping[int, Value]) -> None:
        self._cri, self.number, self._config = cri, number, config
        self._container = ""

    def address(self) -> str:
        status = decode(self._cri.call("PodSandboxStatus", {1: self.number})[1][0])
        return str(decode(status[5][0])[1][0].decode())

    def start(self, image: str, *command: str) -> None:
        container: dict[int, Value] = {1: {1: "main"}, 2: {1: image}, 3: [*command], 15: b""}
        made = self._cri.call("CreateContainer", {1: self.number, 2: container, 3: self._config})
        self._container = made[1][0].decode()
        self._cri.call("StartContainer", {1: self._container})

    def execute(self, *command: str) -> str:
        done = self._cri.call("ExecSync", {1: self._container, 2: [*command], 3: 10})
        return b"".join([*done.get(1, []), *done.get(2, [])]).decode()

    def stop(self) -> None:
        self._cri.call("StopPodSandbox", {1: self.number})

    def remove(self) -> None:
        self._cri.call("RemovePodSandbox", {1: self.number})


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        octet = data[at]
        number, at = number | (octet & 127) << shift, at + 1
        if octet < 128:
            return number, at
        shift += 7
