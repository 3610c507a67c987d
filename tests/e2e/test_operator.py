"""What an operator types at one real daemon, right and wrong, and what is left afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemons import site_of, until, weaver
from weaver.client import Client, RefusedError
from weaver.lab import kernel
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape
from weaver.lab.processes import Process

pytestmark = pytest.mark.e2e

PASSWORD = "a password nobody must see"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab("optest", quiet=True)
    made.down()
    made.up(Order(name="optest", hosts=1, shape=Shape.MESH, pods=1), PASSWORD)
    yield made
    made.down()


@pytest.fixture
def site(lab: Lab) -> Site:
    lab.start(["all"])
    return site_of(lab, "h1")


def daemon(lab: Lab) -> Process:
    return lab.book().daemons["h1"]


def said(site: Site, *args: str) -> tuple[int, str]:
    """Exit code, and the last word of the one line of the error."""
    done = weaver(site, *args)
    lines = done.stderr.splitlines()
    assert len(lines) == (0 if done.returncode == 0 else 1), done.stderr
    return done.returncode, lines[-1].rpartition("(")[2].rstrip(")") if lines else ""


@pytest.mark.parametrize(
    "args",
    [
        ["status"],
        *(["status", p] for p in ("peers", "connections", "targets", "ipam", "links", "routes")),
        ["status", "channels"],
        *(["ipam", verb] for verb in ("status", "list", "ring", "check", "history")),
        ["ipam", "who", "10.32.0.1"],
        ["ps"],
        ["report"],
        ["version"],
    ],
    ids=" ".join,
)
def test_every_reading_command_has_json(site: Site, args: list[str]) -> None:
    done = weaver(site, *args, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert isinstance(json.loads(done.stdout), dict | list)


def test_no_secret_is_in_the_report(lab: Lab, site: Site) -> None:
    state = site.directory / "state"
    report = weaver(site, "report").stdout
    assert "optest" in report or "h1" in report, "the search itself does not work"
    assert PASSWORD not in report
    assert (state / "api-token").read_text().strip() not in report
    assert (state / "identity").read_bytes().hex() not in report


def test_what_happens_to_pods_and_worker_is_an_event(lab: Lab, site: Site) -> None:
    netns = f"/run/netns/{lab.plan().hosts[0].pods[0].namespace}"
    assert said(site, "attach", "seen", netns, "--interface", "seen0") == (0, "")
    assert said(site, "detach", "seen") == (0, "")
    os.kill(
        json.loads(weaver(site, "status", "--json").stdout)["worker"]["pids"][0], signal.SIGKILL
    )
    until(lambda: "worker-died" in weaver(site, "report").stdout, site.last_words)
    events = json.loads(weaver(site, "report").stdout)["events"]
    about = [(e["event"], e.get("container")) for e in events]
    assert ("ready", None) in about
    assert about.index(("pod attached", "seen")) < about.index(("pod detached", "seen"))
    assert {"worker-died"} == {e["reason"] for e in events if e["event"] == "worker lost"}


def test_an_address_in_use_is_not_freed(lab: Lab, site: Site) -> None:
    """Else the next pod would be given an address that this one has."""
    pod = lab.plan().hosts[0].pods[0]
    free = ("ipam", "free", pod.namespace, "--interface", "eth0")
    assert said(site, *free) == (1, "in-use")
    assert json.loads(weaver(site, "ipam", "list", "--json").stdout)
    assert said(site, "expose") == (0, "")
    assert said(site, "ipam", "free", "weave:expose", "--interface", "weave") == (1, "in-use")
    assert weaver(site, "hide").stdout.startswith("hidden 10.")
    assert weaver(site, "hide").stdout == "was not exposed\n"


def test_a_pod_that_nobody_detaches_is_collected(site: Site) -> None:
    """docs/ipam.md R23, with the kernel's own word for it; what lives stays."""
    names = ["optest-dead", "optest-alive"]
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for name in names:
            assert said(site, "attach", name, f"/run/netns/{name}") == (0, "")
        assert said(site, "ipam", "allocate", "by-hand") == (0, "")
        subprocess.run(["ip", "netns", "del", names.pop(0)], check=True)
        looked = json.loads(weaver(site, "ipam", "collect", "--dry-run", "--json").stdout)
        assert [row["container"] for row in looked["suspected"]] == ["optest-dead"]
        check = weaver(site, "ipam", "check")
        assert check.returncode == 1
        assert "optest-dead ethwe: pod-gone" in check.stdout
        done = json.loads(weaver(site, "ipam", "collect", "--json").stdout)
        assert [row["reason"] for row in done["collected"]] == ["pod-gone"]
        held = {
            row["container"] for row in json.loads(weaver(site, "ipam", "list", "--json").stdout)
        }
        assert {"optest-alive", "by-hand"} <= held
        assert "optest-dead" not in held
        assert "leak" not in weaver(site, "ipam", "check").stdout
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)
    assert said(site, "detach", "optest-alive") == (0, "")
    assert said(site, "ipam", "free", "by-hand") == (0, "")


def test_a_bound_that_changes_while_the_pod_runs(lab: Lab, site: Site) -> None:
    pod = lab.plan().hosts[0].pods[0]

    def told() -> str:
        command = ["ip", "netns", "exec", pod.namespace, "tc", "qdisc", "show", "dev", "eth0"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    container = json.loads(weaver(site, "ps", "--json").stdout)[0]["container"]
    for rate, shown in (("8M", "rate 8Mbit"), ("512k", "rate 512Kbit")):
        assert said(site, "bound", container, "--egress", rate) == (0, "")
        assert shown in told()
    assert said(site, "bound", container) == (0, "")  # none
    assert "rate" not in told()
    assert said(site, "bound", "nobody", "--egress", "8M") == (4, "not-attached")
    assert said(site, "bound", container, "--egress", "7") == (1, "bad-request")
    assert weaver(site, "bound", container, "--egress", "much").returncode == 2


def test_rules_that_somebody_flushed_are_made_anew(site: Site) -> None:
    nft = ["ip", "netns", "exec", site.host.namespace, "nft"]
    assert said(site, "expose") == (0, "")

    def masquerades() -> bool:
        done = subprocess.run([*nft, "list", "ruleset"], capture_output=True, text=True, check=True)
        return "masquerade" in done.stdout

    assert masquerades()
    subprocess.run([*nft, "flush", "ruleset"], check=True)
    until(masquerades, site.last_words)
    assert weaver(site, "hide").stdout.startswith("hidden 10.")
    assert not masquerades()


def test_forgetting_what_was_no_target_is_said(site: Site) -> None:
    assert said(site, "connect", "192.0.2.1") == (0, "")
    assert said(site, "forget", "192.0.2.2") == (4, "unknown-target")
    assert said(site, "forget", "192.0.2.1") == (0, "")
    assert json.loads(weaver(site, "status", "targets", "--json").stdout) == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["--interface", "a/b"],
        ["--interface", "sixteen-octets-x"],
        ["--mac", "zz"],
        ["--mac", "01:00:5e:00:00:01"],
        ["--mtu", "0"],
        ["--mtu", "99999999999"],
        ["--address", "nonsense"],
    ],
    ids=" ".join,
)
def test_what_no_interface_can_be_is_refused_in_words(
    lab: Lab, site: Site, wrong: list[str]
) -> None:
    netns = f"/run/netns/{lab.plan().hosts[0].pods[0].namespace}"
    code, reason = said(site, "attach", "wrong", netns, *wrong)
    assert (code, reason) in ((1, "bad-request"), (1, "bad-address"))


def test_a_name_that_cannot_be_stored_stops_nobody_else(site: Site) -> None:
    client = Client(site.socket)
    for name in ("\ud800", "a\0b", "x" * 5000):
        with pytest.raises(RefusedError) as caught:
            client.post("/v1/ipam/allocate", container=name)
        assert caught.value.reason == "bad-request"
    assert client.post("/v1/ipam/allocate", container="fine")["addresses"]
    assert said(site, "ipam", "free", "fine") == (0, "")


def test_a_spoilt_password_file_and_sighup_is_one_line(lab: Lab, site: Site) -> None:
    file = Path(str(lab.book().password_file))
    whole = file.read_text()
    try:
        file.write_text("# nothing\n")
        os.kill(daemon(lab).pid, signal.SIGHUP)
        until(lambda: "password file not read" in site.log.read_text(), site.last_words)
    finally:
        file.write_text(whole)
    os.kill(daemon(lab).pid, signal.SIGHUP)
    until(lambda: "password file read ids=default" in site.log.read_text(), site.last_words)
    assert "Traceback" not in site.log.read_text()


def test_a_stopped_daemon_is_gone_when_the_command_ends(lab: Lab, site: Site) -> None:
    assert weaver(site, "stop").stdout == "stopped\n"
    assert not site.socket.exists()
    assert not (site.socket.parent / "cni.sock").exists()
    assert said(site, "status")[0] == 3
    process = daemon(lab)
    until(lambda: not process.is_alive, site.last_words)


def test_ctrl_c_on_a_terminal_ends_it_in_peace(lab: Lab, site: Site) -> None:
    process, before = daemon(lab), len(site.log.read_text())
    os.killpg(process.pid, signal.SIGINT)
    until(lambda: not process.is_alive, site.last_words)
    assert "Traceback" not in site.log.read_text()[before:]
    assert not site.socket.exists()


def test_another_daemon_does_not_take_the_socket(lab: Lab, site: Site) -> None:
    command = ["weaver", "launch", "--http=", "--port=7001", "--sleeve-port=7002"]
    more = ["--probe-port=7003", f"--state-dir={site.directory}/other"]
    run_dir = f"--run-dir={site.socket.parent}"
    inside = kernel.inside(lab.plan().hosts[0].namespace, [*command, *more, run_dir])
    with pytest.raises(kernel.KernelError, match="socket-in-use"):
        kernel.run("env", f"PATH={site.environment['PATH']}", *inside)
    assert weaver(site, "status").returncode == 0


def test_reset_with_the_daemon_dead_takes_its_devices_and_no_other_state(
    lab: Lab, site: Site
) -> None:
    host = lab.plan().hosts[0]
    inside = kernel.inside(host.namespace, ["weaver", "--socket", str(site.socket), "reset"])
    reset = ["env", f"PATH={site.environment['PATH']}", *inside]
    state = f"--state-dir={site.directory}/state"
    lab.kill(["h1"])
    with pytest.raises(kernel.KernelError, match=r"weaver: .*--state-dir"):
        kernel.run(*reset)
    (site.directory / "state" / "not-ours").touch()
    shown = kernel.run(*reset, state)
    assert "kept" in shown
    assert os.listdir(site.directory / "state") == ["not-ours"]
    assert "weave" not in kernel.run("ip", "-n", host.namespace, "-o", "link")
