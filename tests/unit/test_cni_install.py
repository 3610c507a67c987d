"""What ``weaver setup-cni`` writes, keeps, brings up to date and removes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weaver.cni import install as module
from weaver.cni.install import CONFLIST, conflist, install, remove

FORMER = (
    '{\n  "cniVersion": "1.0.0",\n  "name": "weaver",\n  "plugins": [\n    {\n'
    '      "type": "weaver-net",\n      "ipam": {\n        "type": "weaver-ipam"\n      },\n'
    '      "isDefaultGateway": true\n    },\n    {\n      "type": "portmap",\n'
    '      "capabilities": {\n        "portMappings": true\n      },\n      "snat": true\n    }\n'
    "  ]\n}\n"
)


def installed(directory: Path) -> list[str]:
    return install(directory / "bin", directory / "conf", Path("/run/weaver/cni.sock"))


def test_a_pod_may_send_to_itself_and_be_bounded() -> None:
    """What a real Kubernetes asks of a network: services of one's own, pods' annotations."""
    first, second = json.loads(conflist())["plugins"]
    assert first["hairpinMode"] is True
    assert first["capabilities"] == {"bandwidth": True}
    assert (second["type"], second["capabilities"]) == ("portmap", {"portMappings": True})


def test_what_a_former_version_wrote_is_brought_up_to_date(tmp_path: Path) -> None:
    target = tmp_path / "conf" / CONFLIST
    target.parent.mkdir()
    target.write_text(FORMER)
    assert f"installed {target}" in installed(tmp_path)
    assert target.read_text() == conflist()
    target.write_text(FORMER)
    assert f"removed {target}" in remove(tmp_path / "bin", tmp_path / "conf")
    assert not target.exists()


@pytest.mark.parametrize("text", ["", "{}", conflist().replace("weaver-net", "mine")])
def test_a_configuration_of_somebody_s_own_stays(tmp_path: Path, text: str) -> None:
    target = tmp_path / "conf" / CONFLIST
    target.parent.mkdir()
    target.write_text(text)
    assert f"kept {target}" in installed(tmp_path)
    assert target.read_text() == text
    remove(tmp_path / "bin", tmp_path / "conf")
    assert target.read_text() == text


def test_the_present_configuration_is_none_of_the_former(tmp_path: Path) -> None:
    """Whoever changes it writes down what it was."""
    target = tmp_path / CONFLIST
    target.write_text(conflist())
    assert not module._is_former(target)
