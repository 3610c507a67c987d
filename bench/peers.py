"""Weaver's sleeve beside other encrypted overlays: ``make bench-peers``.

Two hosts on one veth pair; every program runs there at once, idle while another is measured. The
sleeve carries pods' traffic (veth, bridge and TAP at both ends); the others carry their hosts'
own, which is less work. Rounds are interleaved and begin with another program each time.

    raw         veth between the hosts, no overlay
    vxlan       the kernel's VXLAN between the pods, not encrypted
    sleeve      pod to pod, AES-256-GCM
    wireguard   wireguard-go, ChaCha20-Poly1305
    fastd       aes128-gcm
    tinc        1.0, router mode, its default cipher (AES-256-CBC, HMAC-SHA-256)
    nebula      AES-256-GCM
    openvpn     AES-256-GCM
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.datapath import Ends, Samples, add_vxlan, measure, table
from bench.nodes import Cable, World, leave_nothing, run, run_in

INNER_MTU = 1400
STARTS_WITHIN = 20.0
"""Seconds until a program's first ping must cross; handshakes take some."""


@dataclass(frozen=True)
class Side:
    """One end of a tunnel: where it is, its underlay address, its inner one, its directory."""

    name: str
    namespace: str
    underlay: str
    inner: str
    directory: Path

    def command(self, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *argv]

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def up(self, device: str) -> str:
        """The shell's words that give the program's device its address."""
        address = f"ip addr add {self.inner}/24 dev {device}"
        return f"{address}; ip link set {device} mtu {INNER_MTU} up"


Setup = Callable[[Side, Side], list[list[str]]]
"""Write what a program needs at both ends; the command lines of its two processes."""


def wireguard(a: Side, b: Side) -> list[list[str]]:
    # Its control sockets share a directory, so the devices need names of their own.
    return [side.command("wireguard-go", "-f", f"wgb{side.name}") for side in (a, b)]


def wireguard_started(a: Side, b: Side) -> None:
    keys = {}
    for side in (a, b):
        secret = run("wg", "genkey").strip()
        side.write("secret", secret)
        public = subprocess.run(["wg", "pubkey"], input=secret, capture_output=True, text=True,
                                check=True).stdout.strip()  # fmt: skip
        keys[side.name] = public
    for side, other in ((a, b), (b, a)):
        device = f"wgb{side.name}"
        wait_for_device(side, device)
        run_in(side.namespace, "wg", "set", device, "listen-port", "51820", "private-key",
               str(side.directory / "secret"), "peer", keys[other.name], "allowed-ips",
               f"{other.inner}/32", "endpoint", f"{other.underlay}:51820")  # fmt: skip
        run_in(side.namespace, "sh", "-c", side.up(device))


def fastd(a: Side, b: Side) -> list[list[str]]:
    keys = {}
    for side in (a, b):
        said = run("fastd", "--generate-key", "--machine-readable").split()
        if len(said) == 1:
            said += run_with(["fastd", "--machine-readable", "--show-key", "--config", "-"],
                             f'secret "{said[0]}";').split()  # fmt: skip
        keys[side.name] = said
    for side, other in ((a, b), (b, a)):
        # One end dials: where both do, they may settle on two different sessions.
        remote = f"remote {other.underlay}:10000;" if side is b else ""
        side.write("fastd.conf", f"""
            interface "fd{side.name}"; mode tun; method "aes128-gcm"; mtu {INNER_MTU};
            bind {side.underlay}:10000; secret "{keys[side.name][0]}";
            peer "{other.name}" {{ key "{keys[other.name][1]}"; {remote} }}
            on up "{side.up('$INTERFACE')}";
            """)  # fmt: skip
    return [side.command("fastd", "-c", str(side.directory / "fastd.conf")) for side in (a, b)]


def tinc(a: Side, b: Side) -> list[list[str]]:
    for side, other in ((a, b), (b, a)):
        side.write("tinc.conf", f"Name = {side.name}\nInterface = ti{side.name}\n"
                                f"ConnectTo = {other.name}\nAddressFamily = ipv4\n"
                                f"BindToAddress = {side.underlay} 10655\n")  # fmt: skip
        side.write(f"hosts/{side.name}", f"Address = {side.underlay} 10655\nPort = 10655\n"
                                         f"Subnet = {side.inner}/32\n")  # fmt: skip
        side.write("tinc-up", f"#!/bin/sh\n{side.up('$INTERFACE')}\n", 0o700)
        run_with(["tincd", "-c", str(side.directory), "-K2048"], "\n\n")
    for side, other in ((a, b), (b, a)):
        shutil.copy(other.directory / "hosts" / other.name, side.directory / "hosts" / other.name)
    return [
        side.command(
            "tincd", "-c", str(side.directory), "-D", "--pidfile", str(side.directory / "pid")
        )
        for side in (a, b)
    ]


def nebula(a: Side, b: Side) -> list[list[str]]:
    ca = [str(a.directory / name) for name in ("ca.crt", "ca.key")]
    run("nebula-cert", "ca", "-name", "bench", "-out-crt", ca[0], "-out-key", ca[1])
    for side, other in ((a, b), (b, a)):
        crt, key = (str(side.directory / f"own.{kind}") for kind in ("crt", "key"))
        run("nebula-cert", "sign", "-ca-crt", ca[0], "-ca-key", ca[1], "-name", side.name,
            "-ip", f"{side.inner}/24", "-out-crt", crt, "-out-key", key)  # fmt: skip
        config = {
            "pki": {"ca": ca[0], "cert": crt, "key": key},
            "static_host_map": {other.inner: [f"{other.underlay}:4242"]},
            "lighthouse": {"am_lighthouse": side is a, "hosts": [] if side is a else [a.inner]},
            "listen": {"host": side.underlay, "port": 4242},
            "tun": {"dev": f"ne{side.name}", "mtu": INNER_MTU},
            "cipher": "aes",
            "firewall": {
                "outbound": [{"port": "any", "proto": "any", "host": "any"}],
                "inbound": [{"port": "any", "proto": "any", "host": "any"}],
            },
        }
        side.write("config.yml", json.dumps(config))  # JSON is YAML
    return [side.command("nebula", "-config", str(side.directory / "config.yml"))
            for side in (a, b)]  # fmt: skip


def openvpn(a: Side, b: Side) -> list[list[str]]:
    prints = {}
    for side in (a, b):
        crt, key = (str(side.directory / f"own.{kind}") for kind in ("crt", "key"))
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", f"/CN={side.name}",
            "-keyout", key, "-out", crt)  # fmt: skip
        shown = run("openssl", "x509", "-in", crt, "-noout", "-fingerprint", "-sha256")
        prints[side.name] = shown.strip().partition("=")[2]
    commands = []
    for side, other in ((a, b), (b, a)):
        crt, key = (str(side.directory / f"own.{kind}") for kind in ("crt", "key"))
        commands.append(side.command(
            "openvpn", "--dev", f"ov{side.name}", "--dev-type", "tun", "--proto", "udp",
            "--local", side.underlay, "--remote", other.underlay, "--port", "1195",
            "--ifconfig", side.inner, other.inner, "--cert", crt, "--key", key,
            "--peer-fingerprint", prints[other.name], "--data-ciphers", "AES-256-GCM",
            "--disable-dco", *(["--tls-server", "--dh", "none"] if side is a else ["--tls-client"]),
        ))  # fmt: skip
    return commands


@dataclass(frozen=True)
class Program:
    """``net``: third octet of the inner addresses; ``started``: what else to do once it runs."""

    net: int
    needs: tuple[str, ...]
    setup: Setup
    started: Callable[[Side, Side], None] | None = None


PROGRAMS = {
    "wireguard": Program(11, ("wireguard-go", "wg"), wireguard, started=wireguard_started),
    "fastd": Program(12, ("fastd",), fastd),
    "tinc": Program(13, ("tincd",), tinc),
    "nebula": Program(14, ("nebula", "nebula-cert"), nebula),
    "openvpn": Program(15, ("openvpn", "openssl"), openvpn),
}
ROWS = ("raw", "vxlan", "sleeve", *PROGRAMS)


def run_with(argv: list[str], said: str) -> str:
    done = subprocess.run(argv, input=said, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_for(happened: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(explain())
        time.sleep(0.1)


def wait_for_device(side: Side, device: str) -> None:
    wait_for(
        lambda: device in run_in(side.namespace, "ip", "-o", "link"),
        lambda: f"{device} does not come up",
    )


@contextmanager
def running(name: str, world: World, directory: Path) -> Iterator[Ends]:
    """A program at both hosts, its first ping across; its processes end with the block."""
    program = PROGRAMS[name]
    one, two = world.nodes
    a, b = (
        Side(letter, node.namespace, other.underlay[node.number],
             f"10.96.{program.net}.{node.number}", directory / name / letter)
        for letter, node, other in (("a", one, two), ("b", two, one))
    )  # fmt: skip
    for side in (a, b):
        side.directory.mkdir(parents=True)
    processes = []
    try:
        for side, command in zip((a, b), program.setup(a, b), strict=True):
            log = (side.directory / "log").open("w")
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            log.close()
        if program.started is not None:
            program.started(a, b)
        ends = Ends(a.namespace, b.namespace, b.inner)
        wait_for(
            lambda: (
                " 1 received" in run_in(a.namespace, "ping", "-c1", "-W1", b.inner, check=False)
            ),
            lambda: f"{name}: no ping crosses: {(a.directory / 'log').read_text()[-400:]}",
        )
        yield ends
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def collect(
    rows: list[str], rounds: int, seconds: float, *, offloads: bool, quick: bool
) -> dict[str, Samples]:
    results = {row: Samples() for row in rows}
    tag = f"bp{os.getpid() % 1000}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-peers")))
        world = stack.enter_context(World(tag, 2, [Cable(1, 2)], offloads=offloads))
        a, b = world.nodes
        add_vxlan(a, b)
        vxlan = add_vxlan(b, a)
        ends = {
            "raw": Ends(a.namespace, b.namespace, a.underlay[2]),
            "vxlan": Ends(a.pod, b.pod, vxlan),
            "sleeve": Ends(a.pod, b.pod, b.address),
        }
        for name in rows:
            if name in PROGRAMS:
                ends[name] = stack.enter_context(running(name, world, folder))
        for turn in range(rounds):
            start = turn % len(rows)
            for row in rows[start:] + rows[:start]:
                print(f"offloads {'on' if offloads else 'off'}, round {turn + 1}/{rounds}: {row}",
                      file=sys.stderr)  # fmt: skip
                measure(ends[row], results[row], seconds, quick=quick, steps=4)
    return results


def beside_the_best(results: dict[str, Samples]) -> str:
    """The sleeve's figures as ratios to the best encrypted program's."""
    others = [row for row in results if row in PROGRAMS]
    if "sleeve" not in results or not others:
        return ""
    said = []
    for key, what in (("tcp1", "one TCP stream"), ("tcp4", "four"), ("udp1400", "UDP of 1,400"),
                      ("udp64", "UDP of 64")):  # fmt: skip
        if key in results["sleeve"].values:
            best = max(others, key=lambda row: results[row].median(key))
            ratio = results["sleeve"].median(key) / results[best].median(key)
            said.append(f"{what} {ratio:.1f} times {best}'s")
    for key, what in (("cpu", "CPU per GB"), ("p50", "ping p50")):
        best = min(others, key=lambda row: results[row].median(key))
        ratio = results["sleeve"].median(key) / results[best].median(key)
        said.append(f"{what} {ratio:.2f} of {best}'s")
    return "The sleeve beside the best of the others: " + ", ".join(said) + "."


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of one TCP run")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, comma-separated")
    parser.add_argument("--offloads", choices=("on", "off", "both"), default="both")
    parser.add_argument("--quick", action="store_true", help="TCP and ping only")
    args = parser.parse_args()
    leave_nothing()
    rows = args.rows.split(",")
    missing = [tool for row in rows if row in PROGRAMS for tool in PROGRAMS[row].needs
               if shutil.which(tool) is None]  # fmt: skip
    if os.geteuid() != 0 or not set(rows) <= set(ROWS) or args.rounds < 1:
        print(f"needs root, at least one round, and rows of {','.join(ROWS)}", file=sys.stderr)
        return 2
    if missing:
        print(f"needs {', '.join(missing)}: make bench-peers installs them", file=sys.stderr)
        return 2
    for offloads in (False, True):
        if args.offloads not in ("both", "on" if offloads else "off"):
            continue
        results = collect(rows, args.rounds, args.seconds, offloads=offloads, quick=args.quick)
        print(table(results, f"Offloads {'on' if offloads else 'off'}"), end="\n\n")
        print(beside_the_best(results), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
