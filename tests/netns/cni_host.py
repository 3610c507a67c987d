"""What CNI tests hold in hand: a host in a namespace, pods, and the installed executables."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from weaver.cni.install import install

ROOT = Path(__file__).parents[2]
DEBIAN_PLUGINS = "/usr/lib/cni"
DEADLINE = 20.0

Json = dict[str, Any]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One execution of a plugin."""

    status: int
    stdout: bytes
    stderr: bytes

    def result(self) -> Json:
        """The result of a success: exit 0, one JSON object and nothing else."""
        assert self.status == 0, self
        said = json.loads(self.stdout)
        assert isinstance(said, dict)
        return said

    def nothing(self) -> None:
        """Success, and nothing said."""
        assert (self.status, self.stdout) == (0, b""), self

    def error(self, code: int | None = None) -> Json:
        """The error object: exit not 0, all its mandatory keys, the code if one is expected."""
        assert self.status != 0, self
        said: Json = json.loads(self.stdout)
        assert isinstance(said["cniVersion"], str)
        assert isinstance(said["msg"], str)
        assert said["msg"]
        assert code is None or said["code"] == code, said
        return said


class CniHost:
    """A namespace with a bridge, a CNI server in it, and the executables installed for it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="wcni-"))
        self.bin = self.directory / "bin"
        self.namespaces: list[str] = []
        """All of ours, by name: the host's own first."""
        self.namespace = self.add_namespace("h")
        self._process: subprocess.Popen[bytes] | None = None
        (self.directory / "run").mkdir()
        install(self.bin, None, self.directory / "run" / "cni.sock")

    def add_namespace(self, name: str) -> str:
        """A namespace of our own, removed at the end; its name."""
        namespace = f"wcni-{os.getpid()}-{next(_numbers)}-{name}"
        ip("netns", "add", namespace)
        self.namespaces.append(namespace)
        return namespace

    # ---- the daemon

    def start(self) -> None:
        server = [sys.executable, "-m", "tests.netns.cni_server", str(self.directory)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([*self.within(), *server], cwd=ROOT, stderr=log)
        wait_for(self._listens, (self.directory / "log").read_text)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(DEADLINE)
            self._process = None

    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self.directory / "run" / "cni.sock")) == 0

    def close(self) -> None:
        self.kill()
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
        shutil.rmtree(self.directory)

    @contextmanager
    def steered(self, name: str, text: str = "") -> Iterator[None]:
        """While a steering file is there."""
        file = self.directory / name
        file.write_text(text)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    # ---- truth

    def leases(self) -> dict[str, str]:
        """Who has which address, as the allocator wrote it."""
        file = self.directory / "leases.json"
        numbers = json.loads(file.read_text()) if file.exists() else {}
        return {key: str(IPv4Address(number)) for key, number in numbers.items()}

    def veths(self) -> set[str]:
        """The host ends that there are."""
        return {
            link["ifname"]
            for link in json.loads(ip("-n", self.namespace, "-j", "link", "show"))
            if link["ifname"].startswith("vw")
        }

    def within(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    # ---- calls

    def call(
        self,
        command: str | None,
        config: object = None,
        *,
        plugin: str = "weaver-net",
        path: str | None = None,
        drop: tuple[str, ...] = (),
        **environ: str,
    ) -> Outcome:
        """Run a plugin as a runtime does: only its own environment, the configuration on stdin."""
        stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
        full = {"CNI_PATH": f"{self.bin}:{DEBIAN_PLUGINS}", "CNI_IFNAME": "eth0", **environ}
        if command is not None:
            full["CNI_COMMAND"] = command
        done = subprocess.run(
            [*self.within(), path or str(self.bin / plugin)],
            input=stdin,
            capture_output=True,
            env={"PATH": os.environ["PATH"]} | {k: v for k, v in full.items() if k not in drop},
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def pod(self, container: str) -> Pod:
        return Pod(self, container, self.add_namespace("p"))

    def forget(self, pod: Pod) -> None:
        """Its namespace goes, as when its last process ends."""
        ip("netns", "del", pod.namespace)
        self.namespaces.remove(pod.namespace)


class Pod:
    """A namespace that wants an interface, and the calls its runtime makes."""

    def __init__(self, host: CniHost, container: str, namespace: str) -> None:
        self.host, self.container, self.namespace = host, container, namespace
        self.netns = f"/run/netns/{namespace}"

    def call(self, command: str, config: Json | bytes | None = None, **more: Any) -> Outcome:
        known = {"CNI_CONTAINERID": self.container, "CNI_NETNS": self.netns}
        return self.host.call(command, conf() if config is None else config, **{**known, **more})

    def add(self, config: Json | None = None, **more: Any) -> Json:
        return self.call("ADD", config, **more).result()

    def delete(self, config: Json | None = None, **more: Any) -> None:
        self.call("DEL", config, **more).nothing()

    def spawn(self, command: str) -> subprocess.Popen[bytes]:
        """A call that has begun, and waits for its configuration."""
        return subprocess.Popen(
            [str(self.host.bin / "weaver-net")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": self.container,
                "CNI_NETNS": self.netns,
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(self.host.bin),
            },
        )

    def check(self, previous: Json, config: Json | None = None, **more: Any) -> Outcome:
        return self.call("CHECK", {**(config or conf()), "prevResult": previous}, **more)

    def link(self, name: str = "eth0") -> Json | None:
        """The interface as the kernel shows it."""
        for shown in json.loads(ip("-n", self.namespace, "-j", "addr", "show")):
            if shown.get("ifname") == name:
                found: Json = shown
                return found
        return None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", f"--net={self.netns}", *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def reaches(self, address: str) -> bool:
        return self.run("ping", "-c1", "-W2", address).returncode == 0


def conf(version: str = "1.0.0", **more: object) -> Json:
    return {"cniVersion": version, "name": "weaver", "type": "weaver-net", **more}


def address(result: Json) -> str:
    """The first address of a result, without its prefix."""
    return str(result["ips"][0]["address"]).partition("/")[0]


def ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr}"
    return done.stdout


def wait_for(
    happened: Callable[[], bool], explain: Callable[[], object], within: float = DEADLINE
) -> None:
    deadline = time.monotonic() + within
    while not happened():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)


@contextmanager
def host() -> Iterator[CniHost]:
    """A host whose server runs, cleaned away at the end."""
    made = CniHost()
    try:
        made.start()
        yield made
    finally:
        made.close()
