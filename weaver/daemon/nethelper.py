"""The helper process that touches devices: ``python -m weaver.daemon.nethelper``.

One JSON request a line on standard input, one JSON answer a line on standard output. It has one
thread, so that it may enter a pod's namespace and come back (pkg/ns of the CNI project explains why
a threaded process may not); if it cannot come back it ends at once, and the daemon starts another.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from mesh.drivers.netlink import Link, Netlink, Veth, enter_namespace, is_network_namespace
from weaver.daemon.natrules import NatRules, remove_all, remove_nat

Request = dict[str, Any]
Answer = dict[str, Any]

HOST_MTU = 65000
"""MTU of everything between a pod's own interface and the worker: the worker decides what is too
big and answers with ICMP, which a bridge would not."""

POD_GSO_MAX = 62000
"""Octets of a pod's TCP super-frames. The kernel's 65,536 make records of 46 datagrams, two more
than one call of the worker may send (docs/sleeve.md)."""

MIN_BURST = 65536
"""Octets that a bounded device passes at once at least: less than a super-frame would stop it."""

MAX_RATE = 1 << 32
"""Octets a second that the kernel's bound has no room for: no bound."""

MAX_BURST_TIME = 200
"""Seconds that a burst may last: the kernel counts them in 32 bits of 64 ns."""

DEFAULTS = {"0.0.0.0/0": 4, "::/0": 6}

ETH_P_IP, ETH_P_ARP = 0x0800, 0x0806

LOST = 70
"""Exit status when the host's namespace could not be entered again."""


class RefusedError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# ---- namespaces


def open_namespace(path: str) -> int:
    """Raises RefusedError: netns-missing, netns-invalid, netns-own."""
    if not path.startswith("/") or "\0" in path:
        raise RefusedError("netns-invalid", f"{path!r} is not an absolute path")
    try:
        # Without O_NONBLOCK a FIFO of that name would hold us until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        gone = err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)
        reason = "netns-missing" if gone else "netns-invalid"
        raise RefusedError(reason, f"cannot open {path}: {err.strerror}") from err
    if not is_network_namespace(fd):
        os.close(fd)
        raise RefusedError("netns-invalid", f"{path} is not a network namespace")
    if os.path.samestat(os.stat("/proc/self/ns/net"), os.fstat(fd)):
        os.close(fd)
        raise RefusedError("netns-own", f"{path} is the host's own namespace")
    return fd


@contextmanager
def inside(fd: int) -> Iterator[Netlink]:
    """Be in a namespace; its Netlink. Only for work that waits for nobody."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_namespace(fd)
        try:
            nl = Netlink(brief=True)
            try:
                yield nl
            finally:
                nl.close()
        finally:
            try:
                enter_namespace(home)
            except OSError:
                os._exit(LOST)
    finally:
        os.close(home)


def announce(bridge: str, mac: str, addresses: list[str]) -> None:
    """Gratuitous ARP (RFC 5227) over the whole mesh, for those who knew the address under another
    MAC; an IPv6 address the kernel announces itself when it is added (RFC 4861 7.2.6).

    It leaves by the bridge, not by the pod's own interface: a bridge takes nothing from a port
    until it has noticed that the port has a carrier, which may be milliseconds from now.
    """
    hardware = bytes.fromhex(mac.replace(":", ""))
    for cidr in addresses:
        address = cidr.partition("/")[0]
        if ":" in address:
            continue
        ip = socket.inet_aton(address)
        body = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 1) + hardware + ip + bytes(6) + ip
        frame = b"\xff" * 6 + hardware + ETH_P_ARP.to_bytes(2, "big") + body
        _packet_socket().sendto(frame, (bridge, 0))


@cache
def _packet_socket() -> socket.socket:
    """Made once and never closed, which would wait for every processor (15 ms). With protocol 0
    it receives nothing."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)


# ---- commands: each is named as the request names it


def attach(nl: Netlink, r: Request) -> Answer:
    """Make the pair, put it on the bridge, configure the pod's end; all of it or nothing."""
    if not r["netns"]:
        return plug(nl, r)
    fd = open_namespace(r["netns"])
    made = False
    try:
        # A host end of that name is what a crash left behind: the attachment is made anew.
        nl.delete(r["host"])
        try:
            nl.add_veth(Veth(r["host"], HOST_MTU, r["ifname"], r["mtu"]), fd)
        except OSError as err:
            if err.errno == errno.EEXIST:
                message = f"{r['ifname']} exists already in {r['netns']}"
                raise RefusedError("interface-exists", message) from err
            raise
        made = True
        host_mac = nl.enslave(r["host"], r["bridge"], HOST_MTU)
        if r["hairpin"]:
            nl.set_hairpin(r["host"])
        if r["shape"]["ingress_rate"]:
            nl.shape(r["host"], *_octets(r["shape"], "ingress"))
        with inside(fd) as pod:
            mac, routes = _configure(pod, r)
        announce(r["bridge"], mac, r["addresses"])
        return {"mac": mac, "host_mac": host_mac, "routes": routes}
    except BaseException:
        if made:
            nl.delete(r["host"])
        raise
    finally:
        os.close(fd)


def plug(nl: Netlink, r: Request) -> Answer:
    """Make the pair and leave the pod's end here, for a runtime that takes it and configures it."""
    name = "vp" + r["host"][2:]
    nl.delete(r["host"])
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        nl.add_veth(Veth(r["host"], HOST_MTU, name, r["mtu"]), home)
        try:
            nl.prepare(name, POD_GSO_MAX, r["mac"], up=False)
            host_mac = nl.enslave(r["host"], r["bridge"], HOST_MTU)
        except BaseException:
            nl.delete(r["host"])
            raise
    finally:
        os.close(home)
    announce(r["bridge"], r["mac"], r["addresses"])
    return {"mac": r["mac"], "host_mac": host_mac, "routes": []}


def _octets(shape: dict[str, int], direction: str) -> tuple[int, int]:
    """Octets a second, and at once, of bits."""
    rate, burst = shape[f"{direction}_rate"] // 8, shape[f"{direction}_burst"] // 8
    if rate >= MAX_RATE:
        return 0, 0
    burst = burst or rate // 10
    return rate, max(MIN_BURST, min(burst, rate * MAX_BURST_TIME))


def shape(nl: Netlink, r: Request) -> Answer:
    """Bound what an attachment carries: towards the pod at the host's end, from it at its own."""
    nl.shape(r["host"], *_octets(r["shape"], "ingress"))
    fd = open_namespace(r["netns"])
    try:
        with inside(fd) as pod:
            pod.shape(r["ifname"], *_octets(r["shape"], "egress"))
    finally:
        os.close(fd)
    return {}


def resize(nl: Netlink, r: Request) -> Answer:
    """Another MTU for the pod's end. Connections live on: stacks take a device's MTU anew."""
    fd = open_namespace(r["netns"])
    try:
        with inside(fd) as pod:
            pod.set_mtu(r["ifname"], r["mtu"])
    finally:
        os.close(fd)
    return {}


def _configure(pod: Netlink, r: Request) -> tuple[str, list[tuple[str, str | None]]]:
    """The pod's end's MAC, and the routes that it has now."""
    pod.set_up("lo")
    pod.prepare(r["ifname"], POD_GSO_MAX, r.get("mac"), up=True)
    if any(":" in cidr for cidr in r["addresses"]):
        _speak_ipv6(r["ifname"])
    for cidr in r["addresses"]:
        address, _, prefix = cidr.partition("/")
        pod.add_address(r["ifname"], address, int(prefix))
    routes = []
    for destination, gateway in r.get("routes", ()):
        if destination in DEFAULTS and pod.has_default(DEFAULTS[destination], r["ifname"]):
            continue  # of the pod's first interface; a second one does not take it away
        pod.add_route(destination, gateway, r["ifname"])
        routes.append((destination, gateway))
    if r["shape"]["egress_rate"]:
        pod.shape(r["ifname"], *_octets(r["shape"], "egress"))
    link = pod.link(r["ifname"])
    if link is None:
        raise OSError(errno.ENODEV, f"{r['ifname']} vanished")
    return link.mac, routes


def check(nl: Netlink, r: Request) -> Answer:
    """What is wrong with an attachment, in sentences."""
    fd = open_namespace(r["netns"])
    try:
        with inside(fd) as pod:
            wrong = _look(pod, r)
    finally:
        os.close(fd)
    if _octets(r["shape"], "ingress")[0] and nl.link(r["host"]) and not nl.is_shaped(r["host"]):
        wrong.append(f"{r['host']} has lost its bound")
    host = nl.link(r["host"])
    if host is None:
        wrong.append(f"host interface {r['host']} is missing")
    else:
        wrong += _port(host, r["host"], nl.link(r["bridge"]), r["bridge"])
    return {"wrong": wrong}


def _port(port: Link, name: str, bridge: Link | None, on: str) -> list[str]:
    """What is wrong with a port of the bridge."""
    if bridge is None or port.master != bridge.index:
        return [f"{name} is not on the bridge {on}"]
    return [f"{down} is down" for down, link in ((name, port), (on, bridge)) if not link.is_up]


def ports(nl: Netlink, r: Request) -> Answer:
    """What is wrong with those ports that there are."""
    bridge = nl.link(r["bridge"])
    found = [(name, nl.link(name)) for name in r["names"]]
    wrong = [_port(link, name, bridge, r["bridge"]) for name, link in found if link is not None]
    return {"wrong": [sentence for sentences in wrong for sentence in sentences]}


def _look(pod: Netlink, r: Request) -> list[str]:
    ifname = r["ifname"]
    link = pod.link(ifname)
    if link is None:
        return [f"{ifname} is missing"]
    wrong = [] if link.is_up else [f"{ifname} is down"]
    if r.get("mac") and link.mac != r["mac"]:
        wrong.append(f"{ifname} has the MAC {link.mac}, not {r['mac']}")
    have = pod.addresses(ifname)
    wrong += [f"address {a} of {ifname} is missing" for a in r["addresses"] if a not in have]
    if _octets(r["shape"], "egress")[0] and not pod.is_shaped(ifname):
        wrong.append(f"{ifname} has lost its bound")
    wanted = r.get("routes", ())
    versions = {6 if ":" in destination else 4 for destination, _ in wanted}
    routes = pod.routes(ifname, sorted(versions))
    for destination, gateway in wanted:
        if (destination, gateway) not in routes:
            wrong.append(f"route {destination} via {gateway or ifname} is missing")
    return wrong


def setup(nl: Netlink, r: Request) -> Answer:
    """The bridge, and its one way to the mesh: the worker's TAP, or the kernel's device, which
    hands the TAP what is the worker's. Both at once would hear each other's broadcasts."""
    nl.ensure_bridge(r["bridge"], r["mtu"], r["mac"])
    _keep_silent(r["tap"])
    if r["by_kernel"]:
        nl.release(r["tap"], r["bridge"], HOST_MTU)
    else:
        nl.release(r["fastdp"], r["bridge"], HOST_MTU)
        nl.enslave(r["tap"], r["bridge"], HOST_MTU)
    return {}


def _speak_ipv6(device: str) -> None:
    """Of a device of the namespace we are in, where IPv6 is off by default. What cannot be changed
    the kernel says when it is given an address."""
    with suppress(OSError):
        switch = Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6")
        if switch.read_text().strip() != "0":
            switch.write_text("0")


def _keep_silent(device: str) -> None:
    """The kernel is not to speak IPv6 on a device of its own accord: the worker would carry it."""
    with suppress(OSError):  # a kernel without IPv6, or a /proc/sys that is read-only: harmless
        Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")


def adopt(nl: Netlink, r: Request) -> Answer:
    """Put those host ends that live back on the bridge; the answer names them."""
    there = [name for name in r["names"] if nl.link(name) is not None]
    for name in there:
        nl.enslave(name, r["bridge"], HOST_MTU)
        if name in r["hairpins"]:
            nl.set_hairpin(name)
    return {"there": there}


def present(nl: Netlink, r: Request) -> Answer:
    return {"there": [name for name in r["names"] if nl.link(name) is not None]}


def delete(nl: Netlink, r: Request) -> Answer:
    return {"deleted": [name for name in r["names"] if nl.delete(name)]}


def expose(nl: Netlink, r: Request) -> Answer:
    """Addresses for the bridge, and NAT for pods; ``nat`` says why there is none, if so."""
    if any(":" in cidr for cidr in r["addresses"]):
        _speak_ipv6(r["bridge"])
    for cidr in r["addresses"]:
        address, _, prefix = cidr.partition("/")
        nl.add_address(r["bridge"], address, int(prefix))
    bridge = nl.link(r["bridge"])
    if bridge is not None:
        announce(r["bridge"], bridge.mac, r["addresses"])
    return {"nat": _rules.make(r["ranges"], r["bridge"], r["plain"])}


def mend_rules(nl: Netlink, r: Request) -> Answer:
    return {"wrong": _rules.mend(r["ranges"], r["bridge"], r["plain"], exposed=r["exposed"])}


def remove_rules(nl: Netlink, r: Request) -> Answer:
    remove_all()
    return {}


def hide(nl: Netlink, r: Request) -> Answer:
    for cidr in r["addresses"]:
        address, _, prefix = cidr.partition("/")
        nl.delete_address(r["bridge"], address, int(prefix))
    return {"nat": remove_nat()}


_rules = NatRules()

COMMANDS: dict[str, Callable[[Netlink, Request], Answer]] = {
    f.__name__: f
    for f in (
        attach,
        shape,
        check,
        resize,
        ports,
        setup,
        present,
        adopt,
        delete,
        expose,
        mend_rules,
        hide,
        remove_rules,
    )
}


def serve() -> None:
    """Answer requests until standard input ends, which it does with the daemon."""
    nl = Netlink()
    for line in sys.stdin:
        request = json.loads(line)
        answer: Answer
        try:
            answer = {"ok": COMMANDS[request["do"]](nl, request)}
        except RefusedError as err:
            answer = {"error": str(err), "reason": err.reason}
        except OSError as err:
            answer = {"error": str(err.strerror or err), "reason": "kernel-refused"}
        except Exception as err:
            answer = {"error": repr(err), "reason": "helper-failed"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
