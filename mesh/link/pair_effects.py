"""What the keys of a pair ask for and say: effects of ``mesh.link.epochs``."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.effects import Arm, Notify
from mesh.wire.cipher import Cipher


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """Keys (32 octets) and datagram tags (32 bits) of one epoch, from our side."""

    epoch: int
    cipher: Cipher
    rx_key: bytes
    tx_key: bytes
    rx_tag: int
    tx_tag: int

    def __repr__(self) -> str:
        return f"EpochKeys(epoch={self.epoch}, cipher={self.cipher})"


@dataclass(frozen=True, slots=True)
class SendPair:
    message: bytes


@dataclass(frozen=True, slots=True)
class InstallEpoch:
    """Open what comes under these keys; answer ``installed``."""

    keys: EpochKeys


@dataclass(frozen=True, slots=True)
class ActivateEpoch:
    """Send under this epoch from now on."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RetireEpoch:
    """Forget this epoch's keys."""

    epoch: int


@dataclass(frozen=True, slots=True)
class PairReady:
    epoch: int
    cipher: Cipher


@dataclass(frozen=True, slots=True)
class PairFailed:
    reason: str


PairEffect = (
    SendPair
    | InstallEpoch
    | ActivateEpoch
    | RetireEpoch
    | Arm
    | Notify[PairReady]
    | Notify[PairFailed]
)
