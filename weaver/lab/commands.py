"""``weaver lab …``: the command line of labs. Exit codes: 0 fine, 1 failed, 2 usage."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from mesh.errors import OperatorError, WeaverError
from weaver.lab import interrupts, kernel
from weaver.lab.lab import UP_TIMEOUT, Lab
from weaver.lab.plan import Host, Order, Shape, check_name, parse_deny
from weaver.status import table

FINE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """Every lab command with its flags."""
    top = argparse.ArgumentParser(
        prog="weaver lab",
        description="Whole meshes on this machine: namespaces as hosts and pods, real daemons.",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    up = _command(commands, "up", "build a lab and wait until all of it works")
    up.add_argument("--hosts", type=int, default=3, metavar="N", help="how many (3)")
    up.add_argument("--topology", choices=[str(s) for s in Shape], default="mesh")
    up.add_argument("--pods", type=int, default=1, metavar="K", help="of each host (1)")
    up.add_argument("--password", metavar="P", help="the mesh's; without one frames are in clear")
    up.add_argument(
        "--deny", action="append", default=[], metavar="h1:h5", help="not neighbours; repeatable"
    )
    up.add_argument("--mtu", type=int, default=1500, help="of the underlay (1500)")
    up.add_argument("--ipv6", action="store_true", help="an underlay of IPv6 alone")
    up.add_argument("--timeout", type=float, default=UP_TIMEOUT, help="seconds (60)")
    up.add_argument(
        "--launch-option",
        action="append",
        default=[],
        metavar="--FLAG=VALUE",
        help="for every `weaver launch`; repeatable, written with =",
    )
    status = _command(commands, "status", "show hosts, pods, addresses")
    status.add_argument("--json", action="store_true", help="as JSON")
    run = _command(commands, "exec", "run a command in a host or pod: exec h1-p1 -- ping …")
    run.add_argument("place", metavar="HOST|POD")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    cut = _command(commands, "cut", "silence the wire between two neighbours")
    cut.add_argument("first", metavar="HOST")
    cut.add_argument("second", metavar="HOST")
    _command(commands, "heal", "undo every cut")
    for name, text, help_text in (
        ("kill", "SIGKILL the daemons of hosts; their pods stay", "or the word: all"),
        (
            "start",
            "start killed daemons again, with their state and flags",
            "or the word all: every one that does not run",
        ),
    ):
        _command(commands, name, text).add_argument(
            "hosts", nargs="+", metavar="HOST", help=help_text
        )
    _command(commands, "down", "remove every trace of a lab")
    _command(commands, "demo", "five hosts, a relay, a capture, a crash: the whole product shown")
    return top


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:  # noqa: ANN401
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.add_argument("--name", default="weaver", help="of the lab, when there are several")
    return made


# ---- what they do


def _up(args: argparse.Namespace, lab: Lab) -> int:
    if not (math.isfinite(args.timeout) and args.timeout > 0):
        raise OperatorError(f"--timeout is a number of seconds above 0, not {args.timeout}")
    if args.password == "":
        raise OperatorError("--password is empty; leave it out for a mesh that is not encrypted")
    order = Order(
        name=args.name,
        hosts=args.hosts,
        shape=Shape(args.topology),
        pods=args.pods,
        deny=tuple(parse_deny(text) for text in args.deny),
        mtu=args.mtu,
        ipv6=args.ipv6,
    )
    lab.up(order, args.password, args.launch_option, args.timeout)
    sys.stdout.write(status_text(lab.status()))
    print(f"\ntry: weaver lab exec h1 -- weaver status    end it: {_again(args, 'down')}")
    return FINE


def _again(args: argparse.Namespace, command: str) -> str:
    return f"weaver lab {command}" + ("" if args.name == "weaver" else f" --name {args.name}")


def _status(args: argparse.Namespace, lab: Lab) -> int:
    status = lab.status()
    sys.stdout.write(json.dumps(status, indent=2) + "\n" if args.json else status_text(status))
    return FINE


def status_text(status: dict[str, Any]) -> str:
    rows = []
    for host in status["hosts"]:
        about = (
            host["name"],
            host["state"],
            host["underlay"],
            " ".join(host["neighbours"]),
        )
        pods = host["pods"] or [{"name": None, "addresses": []}]
        rows += [(*about, pod["name"], " ".join(pod["addresses"])) for pod in pods]
    text = table(("HOST", "DAEMON", "UNDERLAY", "NEIGHBOURS", "POD", "ADDRESS"), rows)
    if status["cuts"]:
        text += "cut: " + ", ".join(f"{a} - {b}" for a, b in status["cuts"]) + "\n"
    return text


def _exec(args: argparse.Namespace, lab: Lab) -> int:
    place = lab.plan().place(args.place)
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise OperatorError(
            f"which command? for example: {_again(args, 'exec')} {args.place} -- ip a"
        )
    env = lab.site(place).environment if isinstance(place, Host) else dict(os.environ)
    command = kernel.inside(place.namespace, argv)
    interrupts.as_at_birth()
    os.execvpe(command[0], command, env)  # noqa: S606  # running it is what exec is for


def _cut(args: argparse.Namespace, lab: Lab) -> int:
    lab.cut(args.first, args.second)
    print(f"cut: {args.first} - {args.second}")
    return FINE


def _heal(_: argparse.Namespace, lab: Lab) -> int:
    healed = lab.heal()
    print("healed: " + (", ".join(f"{w.a.name} - {w.b.name}" for w in healed) or "nothing was cut"))
    return FINE


def _kill(args: argparse.Namespace, lab: Lab) -> int:
    lab.kill(args.hosts)
    print("killed: " + " ".join(args.hosts))
    return FINE


def _start(args: argparse.Namespace, lab: Lab) -> int:
    started = lab.start(args.hosts)
    print("ready: " + (" ".join(started) or "all run already"))
    return FINE


def _down(_: argparse.Namespace, lab: Lab) -> int:
    lab.down()
    return FINE


def _demo(args: argparse.Namespace, lab: Lab) -> int:
    from weaver.lab.demo import demo

    return FINE if demo(lab) else FAILED


COMMANDS: dict[str, Callable[[argparse.Namespace, Lab], int]] = {
    "up": _up,
    "status": _status,
    "exec": _exec,
    "cut": _cut,
    "heal": _heal,
    "kill": _kill,
    "start": _start,
    "down": _down,
    "demo": _demo,
}


def main(argv: list[str]) -> int:
    """Run one lab command; its exit code. SIGTERM and SIGHUP clear up like Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        with interrupts.ended_once():
            check_name(args.name)
            return COMMANDS[args.command](args, Lab(args.name))
    except OperatorError as err:
        print(f"weaver lab: {err}", file=sys.stderr)
        return USAGE if err.reason == OperatorError.reason else FAILED
    except PermissionError as err:
        print(f"weaver lab: {err.filename}: {err.strerror}; labs are root's", file=sys.stderr)
        return FAILED
    except (WeaverError, TimeoutError, OSError) as err:
        print(f"weaver lab: {err}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("weaver lab: interrupted", file=sys.stderr)
        return INTERRUPTED
