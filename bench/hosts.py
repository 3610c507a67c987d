"""The hosts of a bench in a row, and the kernel's own paths between them."""

from __future__ import annotations

import os
from collections.abc import Callable

from bench.load import Ends
from bench.nodes import Node, World, ip, run_in
from weaver.config import Config

_VXLAN_MTU = "1400"


def usual_lanes() -> tuple[int, ...]:
    """Processes of a worker as a daemon on this machine would choose."""
    return (Config().lanes(os.cpu_count() or 1),)


def address_towards(world: World, node: Node, other: Node) -> str:
    """A node's own underlay address on the cable that leads towards another of the row."""
    step = 1 if other.number > node.number else -1
    return world.node(node.number + step).underlay[node.number]


def route_underlay(world: World) -> None:
    """Let every host of the row reach every cable, the hosts between forwarding IP."""
    for node in world.nodes:
        run_in(node.namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for cable in range(1, len(world.nodes)):
            if cable in (node.number - 1, node.number):
                continue
            towards = node.number + (1 if cable > node.number else -1)
            ip("-n", node.namespace, "route", "add", f"10.99.{cable}.0/24",
               "via", node.underlay[towards])  # fmt: skip


def join_by_vxlan(world: World, a: Node, b: Node, number: int) -> Ends:
    """A kernel VXLAN between two hosts: at each a bridge, and a second leg into the pod."""
    addresses = {}
    for node, other in ((a, b), (b, a)):
        host, pod = node.namespace, node.pod
        vxlan, bridge, port, leg = (f"{kind}{number}" for kind in ("vx", "brx", "podx", "leg"))
        ip("-n", host, "link", "add", vxlan, "type", "vxlan", "id", str(number + 7),
           "dstport", str(4790 + number), "local", address_towards(world, node, other),
           "remote", address_towards(world, other, node))  # fmt: skip
        ip("-n", host, "link", "add", bridge, "type", "bridge")
        ip("link", "add", port, "netns", host, "type", "veth", "peer", "name", leg, "netns", pod)
        for device in (vxlan, port):
            ip("-n", host, "link", "set", device, "master", bridge, "up")
        ip("-n", host, "link", "set", bridge, "up")
        ip("-n", pod, "link", "set", leg, "mtu", _VXLAN_MTU, "up")
        addresses[node.number] = f"10.97.{number}.{node.number}"
        ip("-n", pod, "addr", "add", f"{addresses[node.number]}/24", "dev", leg)
    return Ends(a.pod, b.pod, addresses[b.number])


def raw(world: World, a: Node, b: Node) -> Ends:
    """From host to host, no overlay."""
    return Ends(a.namespace, b.namespace, address_towards(world, b, a))


def pod_to_pod(a: Node, b: Node) -> Ends:
    """By the sleeve."""
    return Ends(a.pod, b.pod, b.address)


def workers(world: World) -> Callable[[], list[int]]:
    return lambda: [pid for node in world.nodes for pid in node.pids]


def fit_for_long_paths(world: World) -> None:
    """TCP windows that fill a fast path of long delay; and no stream remembers those before it."""
    settings = [f"net.ipv4.tcp_{way}=4096 131072 33554432" for way in ("rmem", "wmem")]
    for node in world.nodes:
        for namespace in (node.namespace, node.pod):
            run_in(namespace, "sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1", *settings)
