"""Why a frame or datagram was dropped: the stable words of logs, metrics and status."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from mesh.names import ShortID
from mesh.wire import worker as w


class Drop(StrEnum):
    MALFORMED = "malformed"
    NOT_CONFIGURED = "not-configured"
    UNKNOWN_PEER = "unknown-peer"
    UNKNOWN_EPOCH = "unknown-epoch"
    WRONG_TAG = "wrong-tag"
    UNAUTHENTIC = "unauthentic"
    REPLAYED = "replayed"
    NOT_ENCRYPTED = "not-encrypted"
    NO_KEY = "no-key"
    NO_ROUTE = "no-route"
    HOP_LIMIT = "hop-limit"
    DUPLICATE = "duplicate-broadcast"
    FLOOD_LIMIT = "flood-limit"
    BAD_SOURCE = "bad-source"
    TOO_BIG = "too-big"
    INCOMPLETE = "record-incomplete"
    UNDERLAY_FULL = "underlay-full"
    UNDERLAY_ERROR = "underlay-error"
    RECEIVE_FULL = "receive-queue-full"
    TAP_FULL = "tap-full"
    TAP_REFUSED = "tap-refused"
    LANE_FULL = "lane-full"
    RELAY_SHARE = "relay-share"
    LOCAL = "local-destination"
    LOOPED = "looped"
    OFF_TREE = "off-tree"
    MAC_OF_ANOTHER = "mac-of-another"
    NO_SLEEVE = "no-sleeve"


def most_dropped(drops: Counter[tuple[ShortID, str]]) -> tuple[tuple[ShortID, str, int], ...]:
    """Drops by peer and reason as the daemon is told of them."""
    most = drops.most_common(w.MAX_PEER_DROPS_TOLD)
    return tuple(sorted((peer, reason, count) for (peer, reason), count in most))
