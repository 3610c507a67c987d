"""protocol.md 3: sealed records."""

from __future__ import annotations

import pytest

from mesh.clock import Instant
from mesh.crypto.noise import CipherState
from mesh.crypto.records import (
    MAX_MESSAGE,
    MAX_PLAIN,
    REKEY_RECORDS,
    REKEY_SECONDS,
    RecordForgedError,
    RecordKind,
    RecordReader,
    RecordTooLargeError,
    RecordWriter,
)
from mesh.errors import MalformedMessageError, MisuseError

NOW = Instant(50.0)
KEY = bytes(range(32))


def ends() -> tuple[RecordWriter, RecordReader]:
    return RecordWriter(CipherState("AESGCM", KEY), NOW), RecordReader(CipherState("AESGCM", KEY))


@pytest.mark.parametrize("size", [0, 1, MAX_PLAIN - 1, MAX_PLAIN, MAX_PLAIN + 1, 5 * MAX_PLAIN])
def test_messages_of_every_size(size: int) -> None:
    writer, reader = ends()
    message = bytes(n % 251 for n in range(size))
    assert list(reader.feed(writer.seal(message, NOW) + writer.seal(b"next", NOW))) == [
        message,
        b"next",
    ]


def test_the_octets_of_a_record() -> None:
    """protocol.md 3.1: length, then kind and part sealed under counter 0 with the length as AD."""
    writer, _ = ends()
    data = writer.seal(b"hello", NOW)
    assert data[:2] == (1 + 5 + 16).to_bytes(2, "big")
    assert CipherState("AESGCM", KEY).decrypt(data[:2], data[2:]) == b"\0hello"


@pytest.mark.parametrize("order", [[1, 0], [0, 0], [1]], ids=["swapped", "repeated", "dropped"])
def test_records_out_of_order_do_not_open(order: list[int]) -> None:
    """protocol.md 3.2: the counter is the record's place in the stream."""
    writer, reader = ends()
    sealed = [writer.seal(b"first", NOW), writer.seal(b"second", NOW)]
    with pytest.raises(RecordForgedError):
        list(reader.feed(b"".join(sealed[n] for n in order)))
    _, fresh = ends()
    assert list(fresh.feed(b"".join(sealed))) == [b"first", b"second"]


def test_a_length_beyond_the_limit_is_refused_before_its_octets_come() -> None:
    _, reader = ends()
    with pytest.raises(RecordTooLargeError):
        list(reader.feed(b"\xff\xff"))


def test_a_length_below_the_least_is_refused() -> None:
    _, reader = ends()
    with pytest.raises(RecordForgedError):
        list(reader.feed(b"\0\x10"))


def raw(cipher: CipherState, kind: int, part: bytes) -> bytes:
    length = (1 + len(part) + 16).to_bytes(2, "big")
    return length + cipher.encrypt(length, bytes((kind,)) + part)


@pytest.mark.parametrize(
    ("kind", "part"), [(RecordKind.MORE, b""), (RecordKind.MORE, b"x"), (2, b"x"), (3, b"")]
)
def test_records_that_a_writer_never_makes(kind: int, part: bytes) -> None:
    """protocol.md 3.1: more follows a full record only, and a REKEY record is empty."""
    _, reader = ends()
    with pytest.raises(MalformedMessageError):
        list(reader.feed(raw(CipherState("AESGCM", KEY), kind, part)))


def test_a_message_beyond_the_limit_is_refused_while_it_comes() -> None:
    """protocol.md 3.1: the reader never holds more than the largest message and a record."""
    _, reader = ends()
    cipher = CipherState("AESGCM", KEY)
    part = bytes(MAX_PLAIN)
    for _ in range(MAX_MESSAGE // MAX_PLAIN):
        assert list(reader.feed(raw(cipher, RecordKind.MORE, part))) == []
    with pytest.raises(RecordTooLargeError):
        list(reader.feed(raw(cipher, RecordKind.LAST, b"x")))


def test_the_largest_message_passes_and_one_octet_more_is_our_bug() -> None:
    writer, reader = ends()
    assert [len(m) for m in reader.feed(writer.seal(bytes(MAX_MESSAGE), NOW))] == [MAX_MESSAGE]
    with pytest.raises(MisuseError):
        writer.seal(bytes(MAX_MESSAGE + 1), NOW)


def test_the_key_changes_with_time() -> None:
    """protocol.md 3.4: after 120 s a REKEY record goes first, and the old key opens nothing."""
    writer, reader = ends()
    assert list(reader.feed(writer.seal(b"a", NOW))) == [b"a"]
    late = Instant(NOW + REKEY_SECONDS)
    data = writer.seal(b"b", late)
    plain = [1 + 16 + 2, 1 + 1 + 16 + 2]
    assert len(data) == sum(plain)
    assert list(reader.feed(data)) == [b"b"]
    assert list(reader.feed(writer.seal(b"c", late))) == [b"c"]
    old = CipherState("AESGCM", KEY)
    old.counter = 2
    with pytest.raises(Exception, match="does not open"):
        old.decrypt(data[19:21], data[21:])


def test_the_key_changes_with_use() -> None:
    """protocol.md 3.4: and after 2^15 records, which are at most 1 GiB."""
    writer, reader = ends()
    writer._cipher.counter = reader._cipher.counter = REKEY_RECORDS
    assert list(reader.feed(writer.seal(b"x", NOW))) == [b"x"]
    assert writer._cipher.counter == 1
