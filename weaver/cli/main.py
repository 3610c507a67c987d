"""``weaver …``: the command line. A client of the daemon's API, but for launch and lab.

Exit codes: 0 fine, 1 failed, 2 usage, 3 no daemon, 4 that part is off.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from weaver import __version__
from weaver.cli.parser import parser

if TYPE_CHECKING:
    from weaver.client import Client

FINE, FAILED, USAGE, NO_DAEMON, OFF = 0, 1, 2, 3, 4

OFF_REASONS = {"not-attached", "worker-not-started", "not-found"}
"""Refusals that mean: what you ask about is not there or switched off."""


# ---- what they do


def _print(args: argparse.Namespace, value: Any, text: Callable[[Any], str]) -> int:  # noqa: ANN401
    if getattr(args, "json", False):
        print(json.dumps(value, indent=2))
    else:
        sys.stdout.write(text(value))
    return FINE


def _status(args: argparse.Namespace, client: Client) -> int:
    from weaver import status as s

    if args.part is None:
        return _print(args, client.get("/v1/status"), s.status_text)
    texts: dict[str, Callable[[Any], str]] = {
        "peers": s.peers_text,
        "connections": s.connections_text,
        "targets": s.targets_text,
        "ipam": s.ipam_text,
        "links": s.links_page,
        "routes": s.routes_text,
        "channels": s.channels_text,
    }
    return _print(args, client.get(f"/v1/{args.part}"), texts[args.part])


def _attach(args: argparse.Namespace, client: Client) -> int:
    done = client.post(
        "/v1/attachments",
        container=args.container,
        interface=args.interface,
        netns=args.netns,
        addresses=args.address,
        ranges=args.range,
        mac=args.mac,
        mtu=args.mtu,
    )
    return _print(args, done, lambda row: " ".join(row["addresses"]) + "\n")


def _ipam_verb(args: argparse.Namespace, client: Client) -> int:
    from weaver import status as s

    match args.verb:
        case "status":
            return _print(args, client.get("/v1/ipam"), s.ipam_text)
        case "list":
            return _print(
                args,
                client.get("/v1/ipam/addresses"),
                lambda rows: s.table(
                    ("ADDRESS", "CONTAINER", "INTERFACE"),
                    [(r["address"], r["container"], r["interface"]) for r in rows],
                ),
            )
        case "ring":
            return _print(
                args,
                client.get("/v1/ipam/ring"),
                lambda rows: s.table(
                    ("START", "END", "SIZE", "OWNER", "VERSION"),
                    [(r["start"], r["end"], r["size"], r["nickname"], r["version"]) for r in rows],
                ),
            )
        case "who":
            return _print(args, client.get(f"/v1/ipam/addresses/{args.address}"), s.who_text)
        case "check":
            found = client.get("/v1/ipam/check")
            _print(args, found, s.check_text)
            return FAILED if found["findings"] else FINE
        case "history":
            return _print(args, client.get("/v1/ipam/history"), s.history_text)
        case "reclaim":
            done = client.post("/v1/ipam/reclaim", peer=args.peer, force=args.force)
            return _print(args, done, lambda d: f"took over {d['peer']}: {d['owned']} owned now\n")
        case "add-range":
            done = client.post("/v1/ipam/ranges", range=args.range)
            return _print(args, done, lambda d: "\n".join(d["ranges"]) + "\n")
        case "collect":
            done = client.post("/v1/ipam/collect", dry_run=args.dry_run)
            return _print(args, done, s.collected_text)
        case "resolve":
            done = client.post("/v1/ipam/resolve", address=args.address)
            return _print(args, done, lambda d: f"{d['address']} is disputed no more\n")
        case verb:
            body: dict[str, Any] = {"container": args.container, "interface": args.interface}
            if verb == "claim":
                body |= {"address": args.address, "force": args.force}
            if verb == "allocate":
                body["ranges"] = args.range
            done = client.post(f"/v1/ipam/{verb}", **body)
            return _print(args, done, lambda d: f"{' '.join(d['addresses']) or 'none'}\n")


def _reset(args: argparse.Namespace, client: Client) -> int:
    from weaver.cli.reset import reset

    return reset(args, client)


def _version(args: argparse.Namespace, client: Client) -> int:
    from weaver.client import NoDaemonError, RefusedError

    value, otherwise = {"client": __version__, "daemon": None}, "not running"
    try:
        value["daemon"] = client.get("/v1/version")["version"]
    except NoDaemonError:
        pass
    except RefusedError as err:
        otherwise = f"unknown: {err}"
    return _print(
        args, value, lambda v: f"client {v['client']}\ndaemon {v['daemon'] or otherwise}\n"
    )


def _stop(_: argparse.Namespace, client: Client) -> int:
    client.post("/v1/stop")
    if not client.wait_until_gone():
        print("weaver: it was told to, and has not ended yet (timed-out)", file=sys.stderr)
        return FAILED
    print("stopped")
    return FINE


def _simple(path: str, said: str) -> Callable[[argparse.Namespace, Client], int]:
    def run_it(_: argparse.Namespace, client: Client) -> int:
        client.post(path)
        print(said)
        return FINE

    return run_it


def _connect(args: argparse.Namespace, client: Client) -> int:
    client.post("/v1/connect", peers=args.peers)
    return FINE


def _forget(args: argparse.Namespace, client: Client) -> int:
    unknown = client.post("/v1/forget", peers=args.peers)["unknown"]
    for target in unknown:
        print(f"weaver: {target} was no target (unknown-target)", file=sys.stderr)
    return OFF if unknown else FINE


def _hide(_: argparse.Namespace, client: Client) -> int:
    was = client.post("/v1/hide")["addresses"]
    print(f"hidden {' '.join(was)}" if was else "was not exposed")
    return FINE


def _detach(args: argparse.Namespace, client: Client) -> int:
    client.delete("/v1/attachments", container=args.container, interface=args.interface)
    return FINE


def _bound(args: argparse.Namespace, client: Client) -> int:
    client.post(
        "/v1/attachments/bounds",
        container=args.container,
        interface=args.interface,
        ingress_rate=args.ingress,
        egress_rate=args.egress,
    )
    return FINE


def _expose(args: argparse.Namespace, client: Client) -> int:
    done = client.post("/v1/expose", address=args.address)
    return _print(args, done, lambda d: " ".join(d["addresses"]) + "\n")


def _ps(args: argparse.Namespace, client: Client) -> int:
    from weaver.status import attachments_text

    return _print(args, client.get("/v1/attachments"), attachments_text)


def _report(_: argparse.Namespace, client: Client) -> int:
    print(json.dumps(client.get("/v1/report"), indent=2))
    return FINE


COMMANDS: dict[str, Callable[[argparse.Namespace, Client], int]] = {
    "connect": _connect,
    "forget": _forget,
    "status": _status,
    "attach": _attach,
    "detach": _detach,
    "bound": _bound,
    "expose": _expose,
    "hide": _hide,
    "ps": _ps,
    "report": _report,
    "reload": _simple("/v1/passwords/reload", "password file read"),
    "stop": _stop,
    "reset": _reset,
    "ipam": _ipam_verb,
    "version": _version,
}


def main(argv: Sequence[str]) -> int:
    """Run one command; its exit code."""
    if argv[:1] == ["lab"]:
        from weaver.lab.commands import main as lab_main

        return lab_main(list(argv[1:]))
    args = parser().parse_args(argv)
    if args.command == "lab":
        print("weaver: a lab's daemons have sockets of their own: no --socket", file=sys.stderr)
        return USAGE
    if args.command == "launch":
        from weaver.cli.launch import launch

        return launch(args)
    if args.command == "setup-cni":
        from weaver.cli.setup_cni import setup_cni

        return setup_cni(args)
    from weaver.client import Client, NoDaemonError, RefusedError

    try:
        return COMMANDS[args.command](args, Client(args.socket))
    except NoDaemonError as err:
        print(f"weaver: {err}", file=sys.stderr)
        return NO_DAEMON
    except RefusedError as err:
        print(f"weaver: {err} ({err.reason})", file=sys.stderr)
        return OFF if err.reason in OFF_REASONS else FAILED


def run() -> None:
    """The console script."""
    try:
        try:
            code = main(sys.argv[1:])
        finally:
            sys.stdout.flush()  # here, where what fails can still be told
        sys.exit(code)
    except OSError as err:
        # Of what cannot be written nothing is to be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(err, BrokenPipeError):
            print(f"weaver: {err.strerror or err}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
