"""Debian's encrypted overlays, each between two hosts: keys by its own generator, one peer, UDP.

wireguard   wireguard-go, ChaCha20-Poly1305
fastd       aes128-gcm
tinc        1.0, router mode, its default cipher (AES-256-CBC, HMAC-SHA-256)
nebula      AES-256-GCM
openvpn     AES-256-GCM
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import Ends
from bench.nodes import Node, run, run_in

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
def running(name: str, one: Node, two: Node, directory: Path) -> Iterator[tuple[Ends, list[int]]]:
    """A program at two hosts, its first ping across: where it leads, and its processes.

    They end with the block.
    """
    program = PROGRAMS[name]
    a, b = (
        Side(letter, node.namespace, other.underlay[node.number],
             f"10.96.{program.net}.{node.number}", directory / name / letter)
        for letter, node, other in (("a", one, two), ("b", two, one))
    )  # fmt: skip
    for side in (a, b):
        side.directory.mkdir(parents=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for side, command in zip((a, b), program.setup(a, b), strict=True):
            with (side.directory / "log").open("w") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        if program.started is not None:
            program.started(a, b)
        wait_for(
            lambda: (
                " 1 received" in run_in(a.namespace, "ping", "-c1", "-W1", b.inner, check=False)
            ),
            lambda: f"{name}: no ping crosses: {(a.directory / 'log').read_text()[-400:]}",
        )
        yield Ends(a.namespace, b.namespace, b.inner), [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


TOOLS = ("gcc", "ip", "ethtool", "ping")
"""What every bench needs."""


def missing(names: Iterable[str]) -> list[str]:
    """What the benches, or the programs named, need and is not installed."""
    needed = [tool for name in names if name in PROGRAMS for tool in PROGRAMS[name].needs]
    return [tool for tool in (*TOOLS, *needed) if shutil.which(tool) is None]


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of the packages, as Debian numbers them."""
    packages = {"wireguard": "wireguard-go", **{n: n for n in PROGRAMS if n != "wireguard"}}
    return {
        name: run("dpkg-query", "-W", "-f", "${Version}", packages[name], check=False)
        for name in names
        if name in packages
    }
