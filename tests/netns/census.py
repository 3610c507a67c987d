"""What there is of a CNI host, counted: a failed ADD, or an ADD and its DEL, change nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.netns.cni_host import CniHost, ip, wait_for

Census = dict[str, object]


def census(host: CniHost) -> Census:
    """Namespaces, links, addresses, routes, rules, processes, open files, records."""
    counted: Census = {
        "namespaces": sorted(host.namespaces),
        "processes": sorted(_command(pid) for pid in _family(host.pid())),
        "files": {_command(pid): _files(pid) for pid in _family(host.pid())},
        "leases": host.leases(),
        "rows": _rows(host.directory / "attachments.db"),
        "spool": sorted(entry.name for entry in (host.directory / "run" / "cni-del").iterdir()),
    }
    for namespace in host.namespaces:
        counted[namespace] = _network(namespace)
    return counted


def settled(host: CniHost) -> Census:
    """As it is once nothing changes any more: what was done a moment ago is closed by then."""
    seen = [census(host)]

    def repeats() -> bool:
        seen.append(census(host))
        return seen[-4:] == [seen[-1]] * 4

    wait_for(repeats, lambda: seen[-1])
    return seen[-1]


def assert_settles(host: CniHost, before: Census, *but: str) -> None:
    """That everything ``but`` these is as it was; kernel and daemon may take a moment to let go."""

    def difference() -> dict[str, tuple[object, object]]:
        return _difference(before, census(host), but)

    wait_for(lambda: not difference(), difference, within=5)


def _network(namespace: str) -> dict[str, object]:
    links = json.loads(ip("-n", namespace, "-j", "addr", "show"))
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", "nft", "list", "ruleset"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "links": {
            link["ifname"]: sorted(a["local"] for a in link["addr_info"] if a["scope"] != "link")
            for link in links
            if link.get("ifname", "lo") != "lo"  # which a first ADD puts up, and nobody down
        },
        "routes": sorted(
            line
            for family in ("-4", "-6")
            for line in ip("-n", namespace, family, "route", "show", "table", "all").splitlines()
            if "dev lo " not in line and "fe80::" not in line and "pref medium" not in line
        ),
        "rules": done.stdout,
    }


def _family(pid: int) -> Iterable[int]:
    """A process and all below it."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone"
    return b" ".join(words[1:3]).decode() or "gone"


def _files(pid: int) -> list[str]:
    """What a process has open, without the numbers that differ each time."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry).partition(":[")[0])
        except OSError:
            continue
    return sorted(found)


def _rows(file: Path) -> list[str]:
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        wholes = db.execute("SELECT row FROM attachment").fetchall()
        leases = db.execute("SELECT container || ',' || ifname FROM lease").fetchall()
        return sorted(text for (text,) in (*wholes, *leases))
    finally:
        db.close()


def _difference(
    before: Census, after: Census, but: Iterable[str]
) -> dict[str, tuple[object, object]]:
    keys = sorted((before.keys() | after.keys()).difference(but))
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}
