"""One host of a lab: where its files are, how its daemon is started and asked, how pods join."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import WeaverError
from weaver.client import Client, NoDaemonError, RefusedError
from weaver.cni.install import install
from weaver.lab import kernel
from weaver.lab.plan import Host, Pod
from weaver.lab.processes import Process, spawn

POD_INTERFACE = "eth0"
NETWORK = "weaver"
CNI_TIMEOUT = 60.0

LAST_LINES = 15
"""Of a log, shown when its daemon ended: a traceback's length."""

PLUGIN_PATH = "/usr/lib/cni:/opt/cni/bin"
"""Where Debian and everybody else keep the plugins that may be chained behind ours."""


class AttachError(WeaverError):
    """The CNI executable refused; the message is what it printed."""

    reason = "lab-attach"


@dataclass(frozen=True, slots=True)
class Site:
    """A host's place on disk and the ways to talk to it."""

    host: Host
    directory: Path

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "weaver.sock"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def environment(self) -> dict[str, str]:
        """For commands on this host: `weaver` there speaks to this host's daemon."""
        own = str(Path(sys.executable).parent)
        path = f"{own}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        return {**os.environ, "PATH": path, "WEAVER_SOCKET": str(self.socket)}

    # ---- the daemon

    def prepare(self) -> None:
        """Make the directories and install the CNI executables for this host's socket."""
        self.directory.mkdir(parents=True)
        install(
            self.directory / "cni-bin",
            self.directory / "cni-conf",
            self.directory / "run" / "cni.sock",
        )

    def launch(self, targets: Sequence[str], electors: int, options: Sequence[str]) -> Process:
        """Start the daemon; the flags are the same at every start."""
        command = [
            str(Path(sys.executable).with_name("weaver")),
            "launch",
            *targets,
            f"--nickname={self.host.name}",
            f"--state-dir={self.directory}/state",
            f"--run-dir={self.directory}/run",
            f"--init-peer-count={electors}",
            *options,
        ]
        inside = kernel.inside(self.host.namespace, command)
        return spawn(inside, self.environment, self.log)

    def get(self, path: str) -> Any:  # noqa: ANN401  # JSON
        """Ask the daemon; None while it does not answer."""
        try:
            return Client(self.socket).get(path)
        except (NoDaemonError, RefusedError):
            return None

    def not_ready(self) -> str | None:
        """Why this host's daemon cannot take pods, in a word; None when it can."""
        answer = self.get("/readyz")
        if answer is None:
            return "no answer"
        word = str(answer).strip()
        return None if word == "ok" else word

    def strangers(self, others: Sequence[Host]) -> list[str]:
        """The hosts that this host's daemon does not know or reach yet, by name."""
        known = {p["nickname"] for p in self.get("/v1/peers") or () if p["reachable"]}
        return [other.name for other in others if other.name not in known]

    def unlinked(self, others: Sequence[Host]) -> list[str]:
        """The hosts to which no frames can go yet, with the reason."""
        links = {link["nickname"]: link for link in self.get("/v1/links") or ()}
        lacking = []
        for other in others:
            link = links.get(other.name)
            if link is None or link["state"] == "down":
                lacking.append(f"{other.name} ({link['reason'] if link else 'unknown'})")
        return lacking

    def last_words(self) -> str:
        """The end of the daemon's log, for an error message."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return "it wrote no log"
        return "\n".join(lines[-LAST_LINES:]) if lines else "it wrote no log"

    # ---- pods

    def attach(self, pod: Pod) -> str:
        """CNI ADD by the installed executable, as a container runtime does it; the address."""
        result = json.loads(self._cni("ADD", pod))
        return str(result["ips"][0]["address"]).partition("/")[0]

    def _cni(self, command: str, pod: Pod) -> str:
        plugins = self.directory / "cni-bin"
        config = {"cniVersion": "1.0.0", "name": NETWORK, "type": "weaver-net"}
        environment = {
            **self.environment,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.namespace,
            "CNI_NETNS": f"/run/netns/{pod.namespace}",
            "CNI_IFNAME": POD_INTERFACE,
            "CNI_PATH": f"{plugins}:{PLUGIN_PATH}",
        }
        done = subprocess.run(
            kernel.inside(self.host.namespace, [str(plugins / "weaver-net")]),
            input=json.dumps(config),
            env=environment,
            capture_output=True,
            text=True,
            timeout=CNI_TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise AttachError(f"{pod.name}: {(done.stdout or done.stderr).strip()}")
        return done.stdout


def addresses_of(pod: Pod) -> list[str]:
    """The addresses that the pod's interface has now, read from its namespace, IPv4 first."""
    try:
        shown = json.loads(kernel.run("ip", "-n", pod.namespace, "-j", "addr", "show"))
    except kernel.KernelError:
        return []
    return [
        str(entry["local"])
        for device in shown
        if device.get("ifname") == POD_INTERFACE
        for entry in device.get("addr_info", ())
        if entry.get("scope") == "global"
    ]
