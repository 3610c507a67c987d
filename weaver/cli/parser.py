"""Every command of ``weaver`` with its flags and help."""

from __future__ import annotations

import argparse
from typing import Any

from mesh.wire.cipher import Cipher
from weaver import __version__

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}

PARTS = ("peers", "connections", "targets", "ipam", "links", "routes", "channels")


def parser() -> argparse.ArgumentParser:
    """Every command with its flags."""
    top = argparse.ArgumentParser(
        prog="weaver", description="A peer-to-peer mesh overlay router for containers."
    )
    top.add_argument("--version", action="version", version=f"weaver {__version__}")
    top.add_argument(
        "--socket",
        metavar="PATH",
        help="the daemon's socket (WEAVER_SOCKET, /run/weaver/weaver.sock)",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _launch(commands)
    for name, text in (
        ("connect", "connect to peers, now and from now on"),
        ("forget", "forget addresses of peers and close what came of them"),
    ):
        _command(commands, name, text).add_argument("peers", nargs="+", metavar="ADDRESS")
    status = _reader(commands, "status", "show how things are")
    status.add_argument("part", nargs="?", choices=PARTS, help="only this part")
    attach = _reader(commands, "attach", "attach a network namespace to the mesh")
    attach.add_argument("container")
    attach.add_argument("netns", help="its path, such as /run/netns/web")
    attach.add_argument("--interface", default="ethwe", help="its name inside (ethwe)")
    attach.add_argument(
        "--address",
        action="append",
        help="this address instead of the next free one; one of each range may be",
    )
    attach.add_argument(
        "--range",
        action="append",
        metavar="CIDR",
        help="an address of this range instead of the first of each family",
    )
    attach.add_argument("--mac")
    attach.add_argument("--mtu", type=int)
    detach = _command(commands, "detach", "detach a container")
    detach.add_argument("container")
    detach.add_argument("--interface", help="only this one")
    bound = _command(commands, "bound", "bound what a container sends and receives, from now on")
    bound.add_argument("container")
    bound.add_argument("--interface", help="only this one")
    for direction, text in (("ingress", "towards the container"), ("egress", "from it")):
        bound.add_argument(
            f"--{direction}", type=bits, default=0, metavar="RATE", help=f"bits a second {text}"
        )
    expose = _reader(commands, "expose", "give the host an address in the mesh")
    expose.add_argument("--address")
    _command(commands, "hide", "take the host's address away")
    _reader(commands, "ps", "list attached containers")
    _reader(commands, "report", "print everything as JSON, for a bug report")
    _command(commands, "reload", "read the password file again")
    _command(commands, "stop", "stop the daemon; pods keep their devices")
    reset = _command(commands, "reset", "hand the address space over, remove devices and state")
    reset.add_argument("--force", action="store_true", help="also when nobody takes the space over")
    reset.add_argument("--state-dir", help="with no daemon running (/var/lib/weaver)")
    _ipam(commands)
    setup = _command(commands, "setup-cni", "install the CNI plugins and a configuration")
    setup.add_argument("--dir", default="/opt/cni/bin", help="of the plugins (/opt/cni/bin)")
    setup.add_argument("--conf-dir", default="/etc/cni/net.d", help="of the configuration")
    setup.add_argument("--cni-socket", default="/run/weaver/cni.sock")
    kind = setup.add_mutually_exclusive_group()
    kind.add_argument(
        "--python", metavar="PATH", help="that runs the plugins where they are called (this one)"
    )
    kind.add_argument("--native", action="store_true", help="plugins of C, if built with weaver")
    setup.add_argument("--remove", action="store_true")
    _reader(commands, "version", "show the versions of this command and the daemon")
    lab = commands.add_parser("lab", help="whole meshes on one machine", add_help=False)
    lab.add_argument("rest", nargs=argparse.REMAINDER)
    return top


def bits(text: str) -> int:
    """A rate such as 10M: bits a second."""
    number, unit = text, 1
    if text[-1:].upper() in UNITS:
        number, unit = text[:-1], UNITS[text[-1:].upper()]
    if not number.isascii() or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no rate such as 512k, 10M or 1G")
    return int(number) * unit


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:  # noqa: ANN401
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    return made


def _reader(commands: Any, name: str, text: str) -> argparse.ArgumentParser:  # noqa: ANN401
    made = _command(commands, name, text)
    made.add_argument("--json", action="store_true", help="as JSON")
    return made


def _launch(commands: Any) -> None:  # noqa: ANN401
    launch = _command(commands, "launch", "run the daemon in the foreground")
    launch.add_argument("peers", nargs="*", metavar="PEER", help="addresses of other peers")
    launch.add_argument("--nickname", help="what people call this host (its host name)")
    launch.add_argument("--password-file", metavar="FILE", help="lines of [id:]password")
    launch.add_argument("--password", help="visible to every user of this host: prefer the file")
    launch.add_argument("--port", type=int, default=6783, help="control, TCP (6783)")
    launch.add_argument("--sleeve-port", type=int, default=6783, help="frames, UDP (6783)")
    launch.add_argument("--probe-port", type=int, default=6786, help="liveness, UDP (6786)")
    launch.add_argument("--http", default="127.0.0.1:6784", help="empty: only the socket")
    launch.add_argument("--state-dir", default="/var/lib/weaver")
    launch.add_argument("--run-dir", default="/run/weaver", help="of the sockets")
    launch.add_argument(
        "--range",
        default="10.32.0.0/12",
        metavar="CIDR,…",
        help="addresses of pods; a pod has one of the first range of each family",
    )
    launch.add_argument(
        "--ipam-rest",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for which a freed address is given to nobody (60)",
    )
    launch.add_argument(
        "--ipam-exclude",
        default="",
        metavar="ADDRESSES",
        help="of the range, never given out: A, A/PREFIX or A-B, with commas between",
    )
    launch.add_argument("--mtu", type=int, help="of pods (found by itself from the underlay's)")
    launch.add_argument(
        "--sleeve-workers",
        type=int,
        default=0,
        metavar="N",
        help="processes of the user-space data plane (half the processors, 1 to 4)",
    )
    launch.add_argument("--conn-limit", type=int, default=200)
    launch.add_argument("--no-discovery", action="store_true", help="connect only to PEERs")
    launch.add_argument("--liveness-timeout", type=float, default=5.0, help="seconds (5)")
    launch.add_argument("--init-peer-count", type=int, help="peers that elect the first ring")
    launch.add_argument("--seed", action="store_true", help="own the whole range, ask nobody")
    launch.add_argument("--observer", action="store_true", help="never elect, only ask for space")
    launch.add_argument(
        "--no-fastdp", action="store_true", help="no frames by the kernel, all by the sleeve"
    )
    launch.add_argument(
        "--trusted-subnets",
        default="",
        metavar="CIDR,…",
        help="with a password: peers in there, if they trust us too, are sent frames in clear",
    )
    launch.add_argument(
        "--cipher",
        choices=("auto", *(cipher.value for cipher in Cipher)),
        default="auto",
        help="of frames: the only one to offer, or (auto) all, the fastest here preferred",
    )
    launch.add_argument(
        "--docker",
        nargs="?",
        const="/run/docker/plugins/weaver.sock",
        metavar="PATH",
        help="be Docker's network and address plugin, called by the socket's name (in --run-dir)",
    )
    launch.add_argument(
        "--kubernetes",
        nargs="?",
        const="",
        metavar="URL",
        help="peers are the nodes of a cluster",
    )
    launch.add_argument("--node", help="what this one is called there (WEAVER_NODE, the nickname)")
    launch.add_argument(
        "--service-account",
        default="/var/run/secrets/kubernetes.io/serviceaccount",
        help="directory of token and ca.crt",
    )
    launch.add_argument("--log-format", choices=("text", "json"), default="text")
    launch.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info"
    )


def _ipam(commands: Any) -> None:  # noqa: ANN401
    ipam = _command(commands, "ipam", "addresses: who has them, whose they are")
    verbs = ipam.add_subparsers(dest="verb", metavar="VERB", required=True)
    _reader(verbs, "status", "the range and everybody's share")
    _reader(verbs, "list", "addresses in use on this host")
    _reader(verbs, "ring", "who owns which slice of the range")
    who = _reader(verbs, "who", "whose an address is, who has it, and who had it before")
    who.add_argument("address")
    _reader(verbs, "check", "what is wrong with addresses; exit 1 if anything is")
    _reader(verbs, "history", "addresses given out and freed here, newest first")
    for name, text in (
        ("allocate", "an address for a container"),
        ("claim", "this address for a container"),
        ("free", "give a container's address back"),
    ):
        verb = _reader(verbs, name, text)
        verb.add_argument("container")
        if name == "allocate":
            verb.add_argument("--range", action="append", metavar="CIDR", help="of this range")
        if name == "claim":
            verb.add_argument("address")
            verb.add_argument("--force", action="store_true", help="also one that is excluded")
        verb.add_argument("--interface", default="ethwe")
    add = _reader(verbs, "add-range", "one more range, from now on and over restarts")
    add.add_argument("range", metavar="CIDR")
    collect = _reader(verbs, "collect", "free what no container has any more (two looks, 10 s)")
    collect.add_argument("--dry-run", action="store_true", help="look, and free nothing")
    reclaim = _reader(verbs, "reclaim", "take over the space of a peer that is gone for good")
    reclaim.add_argument("peer", help="its name or nickname")
    reclaim.add_argument(
        "--force", action="store_true", help="also where most of the ring is out of reach"
    )
    resolve = _reader(verbs, "resolve", "end a dispute: what is ours of it is ours")
    resolve.add_argument("address", help="any of the disputed range")
