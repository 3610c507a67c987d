"""The helper process that touches devices: ``python -m weaver.daemon.nethelper``.

One JSON request a line on standard input, one JSON answer a line on standard output. It has one
thread; what happens inside a pod's namespace happens in a forked child that enters it and ends,
so nothing can be left in a wrong namespace (see pkg/ns of the CNI project for why threads may not).
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import sys
from typing import Any

from mesh.drivers.netlink import Netlink, enter_namespace

Request = dict[str, Any]
HOST_MTU = 65000
"""MTU of everything between a pod's own interface and the worker: the worker decides what is too
big and answers with ICMP, which a bridge would not."""


class RefusedError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def open_namespace(path: str) -> int:
    """Raises RefusedError: netns-missing, netns-invalid, netns-own."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise RefusedError("netns-missing", f"cannot open {path}: {err.strerror}") from err
    ours, theirs = os.stat("/proc/self/ns/net"), os.fstat(fd)
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
        os.close(fd)
        raise RefusedError("netns-own", f"{path} is the host's own namespace")
    if ours.st_dev != theirs.st_dev:
        os.close(fd)
        raise RefusedError("netns-invalid", f"{path} is not a network namespace")
    return fd


def inside(fd: int, work: Any) -> Any:  # noqa: ANN401  # whatever the work returns, by JSON
    """Run ``work(Netlink)`` in a forked child inside the namespace; its result."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            enter_namespace(fd)
            answer = {"ok": work(Netlink())}
        except RefusedError as err:
            answer = {"error": str(err), "reason": err.reason}
        except OSError as err:
            answer = {"error": str(err.strerror or err), "errno": err.errno}
        except BaseException as err:
            answer = {"error": repr(err), "errno": errno.EIO}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    data = b""
    while chunk := os.read(reader, 65536):
        data += chunk
    os.close(reader)
    os.waitpid(child, 0)
    answer = json.loads(data or b'{"error": "the helper died", "errno": 5}')
    if "ok" in answer:
        return answer["ok"]
    if "reason" in answer:
        raise RefusedError(answer["reason"], answer["error"])
    raise OSError(answer.get("errno") or errno.EIO, answer["error"])


def announce(ifname: str, mac: str, addresses: list[str]) -> None:
    """Gratuitous ARP (RFC 5227) and unsolicited neighbour advertisements (RFC 4861 7.2.6)."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((ifname, 0))
        for cidr in addresses:
            address = cidr.partition("/")[0]
            if ":" in address:
                continue  # the kernel announces IPv6 itself when the address is added
            ip = socket.inet_aton(address)
            body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + hardware + ip + bytes(6) + ip
            raw.send(b"\xff" * 6 + hardware + b"\x08\x06" + body)


def attach(nl: Netlink, r: Request) -> Any:  # noqa: ANN401
    fd = open_namespace(r["netns"])
    made = False
    try:
        # A host end of that name is what a crash left behind: the attachment is made anew.
        nl.delete(r["host"])
        try:
            nl.add_veth(r["host"], HOST_MTU, r["ifname"], fd, r["mtu"])
        except OSError as err:
            if err.errno == errno.EEXIST:
                raise RefusedError(
                    "interface-exists", f"{r['ifname']} exists in {r['netns']}"
                ) from err
            raise
        made = True
        nl.enslave(r["host"], r["bridge"], HOST_MTU)

        def configure(pod: Netlink) -> Request:
            pod.set_up("lo")
            pod.set_up(r["ifname"], mac=r.get("mac"), mtu=r["mtu"])
            for cidr in r["addresses"]:
                address, _, prefix = cidr.partition("/")
                pod.add_address(r["ifname"], address, int(prefix))
            for destination, gateway in r.get("routes", ()):
                pod.add_route(destination, gateway, r["ifname"])
            link = pod.link(r["ifname"])
            assert link is not None
            announce(r["ifname"], link["mac"], r["addresses"])
            return {"mac": link["mac"]}

        answer = inside(fd, configure)
        host = nl.link(r["host"])
        return {**answer, "host_mac": host["mac"] if host else None}
    except BaseException:
        if made:
            nl.delete(r["host"])
        raise
    finally:
        os.close(fd)


def check(nl: Netlink, r: Request) -> Any:  # noqa: ANN401
    """What is wrong with an attachment: a list of sentences."""
    fd = open_namespace(r["netns"])
    try:

        def look(pod: Netlink) -> list[str]:
            link = pod.link(r["ifname"])
            if link is None:
                return [f"{r['ifname']} is missing"]
            wrong = [] if link["up"] else [f"{r['ifname']} is down"]
            if r.get("mac") and link["mac"] != r["mac"]:
                wrong.append(f"{r['ifname']} has the MAC {link['mac']}, not {r['mac']}")
            have = pod.addresses(r["ifname"])
            wrong += [f"address {a} is missing" for a in r["addresses"] if a not in have]
            routes = pod.routes(r["ifname"])
            wrong += [
                f"route {dst} is missing"
                for dst, gateway in r.get("routes", ())
                if (dst, gateway) not in routes
            ]
            return wrong

        wrong = list(inside(fd, look))
    finally:
        os.close(fd)
    host, bridge = nl.link(r["host"]), nl.link(r["bridge"])
    if host is None:
        wrong.append(f"host interface {r['host']} is missing")
    elif bridge is None or host["master"] != bridge["index"]:
        wrong.append(f"{r['host']} is not on the bridge {r['bridge']}")
    return wrong


def setup(nl: Netlink, r: Request) -> Any:  # noqa: ANN401
    nl.ensure_bridge(r["bridge"], r["mtu"], r["mac"])
    nl.enslave(r["tap"], r["bridge"], HOST_MTU)
    return {}


def expose(nl: Netlink, r: Request) -> Any:  # noqa: ANN401
    address, _, prefix = r["address"].partition("/")
    nl.add_address(r["bridge"], address, int(prefix))
    mac = nl.link(r["bridge"])
    if mac is not None:
        announce(r["bridge"], mac["mac"], [r["address"]])
    return {}


def hide(nl: Netlink, r: Request) -> Any:  # noqa: ANN401
    address, _, prefix = r["address"].partition("/")
    nl.delete_address(r["bridge"], address, int(prefix))
    return {}


def delete(nl: Netlink, r: Request) -> Any:  # noqa: ANN401
    return {"deleted": [name for name in r["names"] if nl.delete(name)]}


def exists(nl: Netlink, r: Request) -> Any:  # noqa: ANN401
    """Which of these host interfaces and namespaces are there."""
    return {
        "links": [name for name in r["links"] if nl.index(name) is not None],
        "paths": [path for path in r["paths"] if os.path.exists(path)],
    }


COMMANDS = {f.__name__: f for f in (attach, check, setup, expose, hide, delete, exists)}


def serve() -> None:
    nl = Netlink()
    for line in sys.stdin:
        request = json.loads(line)
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
