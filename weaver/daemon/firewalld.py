"""Letting pods' packets through firewalld, which rejects whatever is forwarded for a device that is
in none of its zones: what pods send to the world, and, where br_netfilter is loaded, to each other.

What one table accepts another may still reject, so there are rules of ours in its chain, first and
marked. A reload of firewalld takes them away, and they are made again; zones and policies, and what
pods may ask of the host itself, are the operator's and stay as they are.
"""

from __future__ import annotations

import subprocess

CHAIN = ("inet", "firewalld", "filter_FORWARD")
MARK = 'comment "weaver"'
TIMEOUT = 10.0
"""Seconds for one call; it takes some 10 ms."""


def rules(bridge: str, *, exposed: bool) -> list[str]:
    """Among pods everything; a way out while the host is exposed. What answers them, and what was
    published, firewalld accepts itself."""
    ways = [f'iifname "{bridge}" oifname "{bridge}"']
    if exposed:
        ways.append(f'iifname "{bridge}"')
    return [f"{way} accept {MARK}" for way in ways]


def mend(bridge: str, *, exposed: bool) -> str | None:
    """Let pods through if firewalld is there; what was wrong, or None."""
    there = _rules()
    if there is None:
        return None
    wanted = rules(bridge, exposed=exposed)
    texts = [text for text, _ in there]
    if texts[: len(wanted)] == wanted and not any(MARK in text for text in texts[len(wanted) :]):
        return None
    insert = [f"insert rule {' '.join(CHAIN)} {text}" for text in reversed(wanted)]
    done = _nft("-f", "-", stdin="\n".join([*_deletions(there), *insert]) + "\n")
    return "firewalld rejects what is forwarded" + (", for good" if done is None else "")


def remove() -> None:
    if deletions := _deletions(_rules() or []):
        _nft("-f", "-", stdin="\n".join(deletions) + "\n")


def _deletions(there: list[tuple[str, str]]) -> list[str]:
    return [f"delete rule {' '.join(CHAIN)} handle {n}" for text, n in there if MARK in text]


def _rules() -> list[tuple[str, str]] | None:
    """(rule, handle) of firewalld's chain in order; None where firewalld is not."""
    shown = _nft("-a", "list", "chain", *CHAIN)
    if shown is None:
        return None
    found = []
    for line in shown.splitlines():
        text, handle, number = line.strip().rpartition(" # handle ")
        if handle and not text.endswith("{"):
            found.append((text, number))
    return found


def _nft(*args: str, stdin: str = "") -> str | None:
    """What it printed; None if it failed or is not there."""
    try:
        done = subprocess.run(  # noqa: S603  # of constants and the bridge's name
            ["nft", *args],  # noqa: S607  # where Debian and others put it differs
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
