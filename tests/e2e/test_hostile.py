"""What real daemons are made to swallow: octets of all kinds on every port, disks that are full.

Two hosts with a link and traffic on it, and a third that throws: its daemon is dead, so that what
it sends comes from an address the others know.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemons import addresses, site_of, until, until_all_pairs, weaver
from weaver.lab import kernel
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape
from weaver.lab.processes import Process, resident, with_children

pytestmark = pytest.mark.e2e
GROWTH = 24 << 20
"""Octets that a daemon and its worker may grow by: allocators keep what they once had."""

_THROW = """
import json, random, socket, sys, time
host, captured = sys.argv[1], [bytes.fromhex(line) for line in open(sys.argv[2])]
rng = random.Random(7)
header = bytes.fromhex(sys.argv[3])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in (6783, 6786):
    for n in range(3000):
        size = rng.choice((0, 1, 23, 24, 25, 64, 1400, 9000))
        udp.sendto(rng.randbytes(size), (host, port))
        if captured:
            whole = rng.choice(captured)
            cut = rng.randrange(len(whole) + 1)
            udp.sendto(whole, (host, port))
            udp.sendto(whole[:cut], (host, port))
            at = rng.randrange(len(whole) or 1)
            udp.sendto(whole[:at] + rng.randbytes(4) + whole[at + 4:], (host, port))
        if n % 50 == 0:
            time.sleep(0.01)
said = []
for n in range(40):
    with socket.socket() as tcp:
        tcp.settimeout(5)
        try:
            tcp.connect((host, 6783))
            junk = rng.randbytes(rng.choice((1, 7, 100, 70_000)))
            tcp.sendall([junk, header, header[:9], header + b"\\xff" * 4 + junk][n % 4])
            if n % 2:
                tcp.shutdown(socket.SHUT_WR)
                while tcp.recv(65536):
                    pass
        except OSError as err:
            said.append(str(err))
# Connections that say nothing and stay, more than may be half-open.
held = []
for n in range(150):
    tcp = socket.socket()
    tcp.settimeout(1)
    try:
        tcp.connect((host, 6783))
        held.append(tcp)
    except OSError as err:
        said.append(str(err))
time.sleep(0.5)
print(json.dumps({"held": len(held), "said": len(said)}))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab("hostile", quiet=True)
    lab.down()
    lab.up(Order(name="hostile", hosts=3, shape=Shape.MESH, pods=1), "x")
    yield lab
    lab.down()


def memory(lab: Lab, name: str) -> int:
    return sum(resident(p) for p in with_children(lab.book().daemons[name]))


def captured(lab: Lab, directory: Path) -> Path:
    """Genuine datagrams between h1 and h2, one in hexadecimal a line."""
    file, inside = directory / "captured.pcap", lab.plan().host("h1").namespace
    dump = subprocess.Popen(
        ["ip", "netns", "exec", inside, "tcpdump", "-i", "to-h2", "-w", str(file), "-U", "-c", "60",
         "udp"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until_all_pairs(lab, addresses(lab), 10.0)
        dump.wait(20)
    finally:
        if dump.poll() is None:
            dump.kill()
            dump.wait()
    out, data, at = directory / "captured.hex", file.read_bytes(), 24
    lines = []
    while at + 16 <= len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        frame = data[at + 16 : at + 16 + size]
        lines.append(frame[14 + 20 + 8 :].hex())
        at += 16 + size
    assert len(lines) > 20
    out.write_text("\n".join(line for line in lines if line) + "\n")
    return out


def test_octets_of_all_kinds_on_every_port(lab: Lab, tmp_path: Path) -> None:
    """Random, truncated, oversized, altered and replayed; the link of the others stays up."""
    known = addresses(lab)
    datagrams = captured(lab, tmp_path)
    header = b"WEAVER".hex()
    before = {name: memory(lab, name) for name in ("h1", "h2")}
    lab.kill(["h3"])
    ages = connected_for(lab)
    for _ in range(2):
        command = [sys.executable, "-c", _THROW, lab.plan().host("h1").underlay]
        done = kernel.run(
            *kernel.inside(lab.plan().host("h3").namespace, [*command, str(datagrams), header])
        )
        assert json.loads(done)["held"] > 0
    one, two = (lab.plan().host(name).pods[0] for name in ("h1", "h2"))
    ping = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", known[two.name]]
    assert kernel.run(*kernel.inside(one.namespace, ping))
    assert connected_for(lab) >= ages, "the connection of the others was never lost"
    for name, was in before.items():
        assert memory(lab, name) - was < GROWTH
    counters = site_of(lab, "h1").get("/v1/status")["counters"]
    assert counters.get("not-weaver", 0) > 0
    assert any(counters.get(r, 0) for r in ("too-many-attempts", "header-timeout"))
    drops = dict(site_of(lab, "h1").get("/v1/status")["worker_counters"]["drops"])
    assert drops.get("malformed", 0) > 0
    assert drops.get("replayed", 0) + drops.get("wrong-tag", 0) + drops.get("unauthentic", 0) > 0
    lab.start(["h3"])
    until_all_pairs(lab, known, 15.0)


def connected_for(lab: Lab) -> float:
    """Seconds that the connection between h1 and h2 has lasted."""
    (row,) = [c for c in site_of(lab, "h1").get("/v1/connections")
              if c["nickname"] == "h2" and c["state"] == "established"]  # fmt: skip
    return float(row["age"])


# ---- the disk


@contextmanager
def small_disk(directory: Path, *options: str) -> Iterator[None]:
    """The state directory on a file system of 1 MiB."""
    kept = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(("size=1m", "mode=700", *options)), "none",
         str(directory)],
        check=True,
    )  # fmt: skip
    try:
        for name, data in kept.items():
            (directory / name).write_bytes(data)
            (directory / name).chmod(0o600)
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_full_disk_refuses_and_recovers(lab: Lab) -> None:
    """One clear reason, nothing half-done, pods go on talking; room again, and it works again."""
    known, site = addresses(lab), site_of(lab, "h3")
    lab.kill(["h3"])
    state = site.directory / "state"
    with small_disk(state):
        lab.start(["h3"])
        until_all_pairs(lab, known, 15.0)
        filler = state / "filler"
        fill(filler)
        refused = weaver(site_of(lab, "h3"), "ipam", "allocate", "more")
        assert refused.returncode == 1
        assert "store-full" in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
        assert weaver(site_of(lab, "h3"), "connect", "172.31.0.77").returncode == 0
        until(lambda: site.get("/v1/status")["state_fault"], site.last_words)
        until_all_pairs(lab, known, 10.0)
        filler.unlink()
        assert weaver(site_of(lab, "h3"), "forget", "172.31.0.77").returncode == 0
        until(
            lambda: weaver(site_of(lab, "h3"), "ipam", "allocate", "more").returncode == 0,
            site.last_words,
        )
        assert site.get("/v1/status")["state_fault"] is None
        lab.kill(["h3"])
    lab.start(["h3"])
    until_all_pairs(lab, known, 15.0)


def fill(filler: Path) -> None:
    """Until not even an octet fits."""
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break


def test_a_disk_that_is_full_at_the_start_is_one_clear_error(lab: Lab) -> None:
    """Also at the very first start, when nothing is there yet."""
    site = site_of(lab, "h3")
    lab.kill(["h3"])
    state = site.directory / "state"
    with small_disk(state):
        for kept, reason in (
            (("identity", "ipam.db", "attachments.db", "facts.json"), "store-full"),
            (("identity",), "store-full"),
            ((), "identity-unwritable"),
        ):
            for path in state.iterdir():
                if path.name not in kept:
                    path.unlink()
            fill(state / "filler")
            said = launch_fails(lab, site)
            assert said.endswith(f"({reason})"), said
    lab.start(["h3"])


def test_a_read_only_disk_is_one_clear_error(lab: Lab) -> None:
    site = site_of(lab, "h3")
    lab.kill(["h3"])
    state = site.directory / "state"
    with small_disk(state):
        before = {p.name: p.read_bytes() for p in state.iterdir()}
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        said = launch_fails(lab, site)
        assert said.endswith("-unwritable)"), said
        assert {p.name: p.read_bytes() for p in state.iterdir()} == before
    lab.start(["h3"])


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("identity", b"short", "identity-size"),
        ("facts.json", b"{torn", "state-corrupt"),
        ("facts.json", b'{"version": 99}', "state-version"),
        ("ipam.db", b"no database" * 100, "store-corrupt"),
        ("ipam.db", b"", "store-corrupt"),
        ("attachments.db", b"no database" * 100, "store-corrupt"),
    ],
)
def test_a_damaged_file_is_one_clear_error_and_stays(
    lab: Lab, name: str, data: bytes, reason: str
) -> None:
    known, site = addresses(lab), site_of(lab, "h3")
    lab.kill(["h3"])
    file = site.directory / "state" / name
    # What SQLite had not written back yet lies beside its file, and belongs to it.
    family = {p: p.read_bytes() for p in file.parent.iterdir() if p.name.startswith(name)}
    for path in family:
        path.unlink()
    try:
        file.write_bytes(data)
        file.chmod(0o600)
        assert launch_fails(lab, site).endswith(f"({reason})")
        assert file.read_bytes() == data
    finally:
        for path, was in family.items():
            path.write_bytes(was)
            path.chmod(0o600)
    lab.start(["h3"])
    until_all_pairs(lab, known, 15.0)


def launch_fails(lab: Lab, site: Site) -> str:
    """What a daemon that cannot start prints: one line, exit code 1."""
    before = site.log.stat().st_size
    process = site.launch([], 3, [f"--password-file={lab.book().password_file}"])
    deadline = time.monotonic() + 15
    while process.is_alive:
        assert time.monotonic() < deadline, site.last_words()
        time.sleep(0.05)
    assert status_of(process) == 1
    lines = site.log.read_bytes()[before:].decode().strip().splitlines()
    said = [line for line in lines if line.startswith("weaver: ")]
    assert len(said) == 1, lines
    assert "Traceback" not in "\n".join(lines)
    return said[0]


def status_of(process: Process) -> int:
    _, status = os.waitpid(process.pid, 0)
    return os.waitstatus_to_exitcode(status)
