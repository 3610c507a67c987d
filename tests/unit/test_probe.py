"""Liveness probes: octets and tag."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest

from mesh.errors import MalformedMessageError
from mesh.wire.probe import SIZE, ForgedProbeError, Probe, probe_sender
from tests.sim.views import name

KEY = bytes(range(32))
PROBE = Probe(name(1), name(2), 7, 6, 0x01020304)
BODY = b"wvp1" + name(1).octets + name(2).octets + bytes.fromhex("00000007 00000006 01020304")


def test_octets() -> None:
    """protocol.md 9.1: 48 octets, the tag HMAC-SHA256 cut to 16."""
    data = PROBE.encode(KEY)
    assert len(data) == SIZE == 48
    assert data == BODY + hmac.new(KEY, BODY, sha256).digest()[:16]
    assert Probe.decode(data, KEY) == PROBE
    assert probe_sender(data) == name(1)


def test_every_octet_counts() -> None:
    """protocol.md 9.1: altered anywhere, it is refused; the genuine one is taken after it."""
    data = PROBE.encode(KEY)
    for place in range(SIZE):
        altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(MalformedMessageError) as caught:
            Probe.decode(altered, KEY)
        assert caught.value.reason == ("malformed-message" if place < 4 else "forged")
    with pytest.raises(ForgedProbeError):
        Probe.decode(data, bytes(32))
    assert Probe.decode(data, KEY) == PROBE


@pytest.mark.parametrize("data", [b"", b"wvp1", bytes(SIZE), PROBE.encode(KEY) + b"\0"])
def test_what_is_no_probe(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        Probe.decode(data, KEY)
    with pytest.raises(MalformedMessageError):
        probe_sender(data)
