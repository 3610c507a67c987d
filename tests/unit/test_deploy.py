"""Files that other programs read: what they say must be what weaver needs."""

from __future__ import annotations

import re
from pathlib import Path

import hatch_build

REPOSITORY = Path(__file__).parents[2]


def stages() -> list[str]:
    text = (REPOSITORY / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    return re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]


def installed(stage: str) -> set[str]:
    found = re.search(r"apt-get install -y --no-install-recommends ([^&\n]+)", stage)
    assert found is not None
    return set(found[1].split())


def test_the_image_is_built_where_a_compiler_is() -> None:
    """The wheel's build refuses to leave the fast path's programs out."""
    build, _ = stages()
    assert installed(build) & set(hatch_build.COMPILERS)
    assert "libbpf-dev" in installed(build)


def test_the_image_has_what_weaver_runs() -> None:
    _, last = stages()
    assert {"python3", "nftables", "iptables"} <= installed(last)


def test_what_machines_made_is_not_sent_to_docker() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert {".venv", "build", "mesh/link/bpf/objects"} <= set(ignored)
