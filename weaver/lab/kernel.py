"""The lab's door to the kernel: namespaces, veth pairs, cuts, the neighbour table's size."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from mesh.errors import WeaverError
from weaver.lab.plan import Host, Plan, Pod, Wire

NETNS = Path("/run/netns")

NEIGHBOUR_TABLE = {"gc_thresh1": 4096, "gc_thresh2": 16384, "gc_thresh3": 32768}
"""All namespaces of a machine share one ARP table; its default limit of 1,024 is a lab of 30."""

_CUT = "weaver-lab-cut"


class KernelError(WeaverError):
    """A tool the lab drives refused; the message is the tool's own."""

    reason = "lab-kernel"


def run(*command: str, stdin: str | None = None) -> str:
    """Run a tool to its end; what it printed."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise KernelError(f"{command[0]} is not installed") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise KernelError(f"{' '.join(command)}: {said[0] if said else done.returncode}")
    return done.stdout


def inside(namespace: str, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` in a namespace, with that namespace's /sys."""
    return ["ip", "netns", "exec", namespace, *command]


def namespaces() -> set[str]:
    return set(os.listdir(NETNS)) if NETNS.is_dir() else set()


def check_free(plan: Plan) -> None:
    """Whoever made a namespace of such a name is to remove it: what we clear away must be ours."""
    taken = sorted({place.namespace for place in _places(plan)} & namespaces())
    if taken:
        raise KernelError(f"namespace {taken[0]} exists already; `weaver lab down` removes it")


def build(plan: Plan) -> None:
    """Make every namespace and wire of the plan; none of them may exist."""
    _batch([], [f"netns add {place.namespace}" for place in _places(plan)])
    for host in plan.hosts:
        _prepare(host)
    _batch([], [_veth(wire, plan.order.mtu) for wire in plan.wires])
    for host in plan.hosts:
        _batch(["-n", host.namespace], _addressing(plan, host))
    for pod in plan.pods:
        run("ip", "-n", pod.namespace, "link", "set", "lo", "up")


def _places(plan: Plan) -> list[Host | Pod]:
    return [*plan.hosts, *plan.pods]


def remove(names: Iterable[str]) -> None:
    """Delete namespaces, and with them all their devices; one that is gone already is fine."""
    there = namespaces()
    for name in names:
        if name in there:
            run("ip", "netns", "del", name)


def processes_in(namespace: str) -> list[int]:
    """Every process that has this namespace as its network."""
    if namespace not in namespaces():
        return []
    return [int(pid) for pid in run("ip", "netns", "pids", namespace).split()]


def cut(wire: Wire) -> None:
    """Drop everything that arrives at either end, silently, as a failed switch does."""
    for here, device, _ in wire.ends:
        rules = (
            f"table netdev {_CUT} {{\n chain {device} {{\n"
            f'  type filter hook ingress device "{device}" priority 0; policy drop;\n }}\n}}\n'
        )
        run(*inside(here.namespace, ["nft", "-f", "-"]), stdin=rules)


def heal(host: Host) -> None:
    """Undo every cut at this host."""
    # Declaring the table first makes deleting it right whether or not there was a cut.
    rules = f"table netdev {_CUT} {{ }}\ndelete table netdev {_CUT}\n"
    run(*inside(host.namespace, ["nft", "-f", "-"]), stdin=rules)


def raise_neighbour_table() -> dict[str, int]:
    """Make room for many hosts' neighbours; what stood there before, to put back."""
    before = {}
    for key, wanted in NEIGHBOUR_TABLE.items():
        for family in ("ipv4", "ipv6"):
            path = Path("/proc/sys/net") / family / "neigh/default" / key
            if path.exists() and int(path.read_text()) < wanted:
                before[str(path)] = int(path.read_text())
                path.write_text(str(wanted))
    return before


def restore(settings: dict[str, int]) -> None:
    for path, value in settings.items():
        Path(path).write_text(str(value))


def _prepare(host: Host) -> None:
    # No duplicate address detection: a lab's addresses are right by construction, and it costs 1 s.
    settings = ["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"]
    subprocess.run(
        inside(host.namespace, ["sysctl", "-q", "-w", *settings]), capture_output=True, check=False
    )
    run("ip", "-n", host.namespace, "link", "set", "lo", "up")


def _veth(wire: Wire, mtu: int) -> str:
    (a, to_b, _), (b, to_a, _) = wire.ends
    return (
        f"link add {to_b} mtu {mtu} netns {a.namespace} type veth "
        f"peer name {to_a} mtu {mtu} netns {b.namespace}"
    )


def _addressing(plan: Plan, host: Host) -> list[str]:
    lines = []
    for wire in plan.wires:
        for here, device, far in wire.ends:
            if here != host:
                continue
            lines += [
                f"addr add {host.underlay6}/128 dev {device} nodad",
                f"link set {device} up",
                f"route add {far.underlay6}/128 dev {device} src {host.underlay6}",
            ]
            if not plan.order.ipv6:
                lines += [
                    f"addr add {host.underlay}/32 dev {device}",
                    f"route add {far.underlay}/32 dev {device} src {host.underlay}",
                ]
    return lines


def _batch(options: list[str], lines: list[str]) -> None:
    if lines:
        run("ip", *options, "-batch", "-", stdin="\n".join(lines) + "\n")
