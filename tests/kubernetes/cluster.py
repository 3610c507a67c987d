"""A whole Kubernetes on this machine: a control plane and nodes, each in namespaces of its own.

Their underlay is a bridge in the control plane's network namespace; nothing of this machine's own
network, mounts or settings is touched. A machine ends with its first process.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from weaver.lab import kernel
from weaver.lab.processes import Process, kill, spawn, with_children

Json = dict[str, Any]

HERE = Path(__file__).parent
CONTROL = "weaver-k8s"
NODES = ("node1", "node2", "node3")
UNDERLAY = "172.30.0."
SERVER = f"{UNDERLAY}1"
SERVICES = "10.96.0."
PAUSE = "docker.io/library/weaver-pause:local"

READY_WITHIN = 120.0
"""Seconds for anything of Kubernetes' own, on two processors that have other work."""

_CONTAINERD = """
version = 2
root = "{place}/containerd"
state = "/run/containerd-state"
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{place}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


class Machine:
    """Namespaces with an address on the underlay, and services, each started again if it ends."""

    def __init__(self, name: str, namespace: str, place: Path) -> None:
        self.name, self.namespace, self.place = name, namespace, place
        self._first: Process | None = None
        for part in ("services", "log"):
            (place / part).mkdir(parents=True)

    def serve(self, name: str, *command: str) -> None:
        line = " ".join(f"'{word}'" for word in command)
        (self.place / "services" / name).write_text(f"exec {line}\n")

    def start(self) -> None:
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        script = ["bash", str(HERE / "machine.sh"), self.name, str(self.place)]
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", *unshare, *script]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        self._first = spawn(command, environment, self.place / "log/machine")
        up = self.place / "up"
        wait_for(up.exists, lambda: self.log("machine"), within=10)

    def stop(self) -> None:
        """Its first process, and with that all others."""
        if self._first is not None:
            inside = with_children(self._first)
            kill(inside)
            self._first = None

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """On this machine: in all of its namespaces."""
        init = self._init()
        return subprocess.run(
            ["nsenter", "-t", str(init.pid), "-n", "-m", "-p", "-u", *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def processes(self, *words: str) -> list[Process]:
        """Those of this machine whose command has all of these words."""
        assert self._first is not None
        found = []
        for process in with_children(self._first):
            try:
                command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if all(word in command for word in words):
                found.append(process)
        return found

    def log(self, name: str) -> str:
        return (self.place / "log" / name).read_text(errors="replace")

    def _init(self) -> Process:
        assert self._first is not None
        _, init, *_ = with_children(self._first)
        return init


class Cluster:
    """``up``, then everything by ``kubectl``; ``down`` leaves nothing."""

    def __init__(self, place: Path, executables: Path, images: Sequence[Path]) -> None:
        self.place, self.images = place, images
        self._bin = executables
        self._cgroups = set(_cgroups())
        self.control = Machine("control", CONTROL, place / "control")
        self.nodes = {name: Machine(name, f"{CONTROL}-{name}", place / name) for name in NODES}

    # ---- up and down

    def up(self) -> None:
        for name in (CONTROL, *(node.namespace for node in self.nodes.values())):
            assert name not in kernel.namespaces(), f"namespace {name} is left from another run"
        _underlay([node.namespace for node in self.nodes.values()])
        _authority(self.place / "pki")
        self._write_access()
        self._control_plane()
        for number, node in enumerate(self.nodes.values(), 1):
            self._node(node, f"{UNDERLAY}1{number}")
        wait_for(self._is_ready, lambda: self.control.log("apiserver")[-2000:])
        for node in self.nodes.values():
            self._load(node)

    def down(self) -> None:
        for machine in (*self.nodes.values(), self.control):
            machine.stop()
        kernel.remove([*(node.namespace for node in self.nodes.values()), CONTROL])
        for left in sorted(set(_cgroups()) - self._cgroups, key=len, reverse=True):
            if not _is_alive(left):  # all of ours are dead: that one is somebody else's
                _remove_cgroup(left)

    def keep_logs(self, where: Path) -> None:
        """What everybody said, for whoever looks for the reason."""
        shutil.rmtree(where, ignore_errors=True)
        for machine in (self.control, *self.nodes.values()):
            shutil.copytree(machine.place / "log", where / machine.name, dirs_exist_ok=True)
            pods = machine.place / "varlog/pods"
            if pods.is_dir():
                shutil.copytree(pods, where / machine.name / "pods", dirs_exist_ok=True)

    # ---- asking

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 90) -> str:
        done = self.try_kubectl(*args, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr or done.stdout}"
        return done.stdout

    def try_kubectl(
        self, *args: str, stdin: str | None = None, timeout: float = 90
    ) -> subprocess.CompletedProcess[str]:
        inside = ("nsenter", f"--net=/run/netns/{CONTROL}")
        access = f"--kubeconfig={self.place}/admin.kubeconfig"
        return subprocess.run(
            [*inside, str(self._bin / "kubectl"), access, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "-o", "json"))

    def apply(self, *things: Json) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(things)})
        self.kubectl("apply", "-f", "-", stdin=text)

    # ---- parts

    def _write_access(self) -> None:
        """A token for the administrator, and for each kubelet the one of its node."""
        rows = []
        for name in ("admin", *NODES):
            token = secrets.token_hex(16)
            user, group = (
                ("admin", "system:masters")
                if name == "admin"
                else (f"system:node:{name}", "system:nodes")
            )
            rows.append(f'{token},{user},{name},"{group}"\n')
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {
                            "server": f"https://{SERVER}:6443",
                            "certificate-authority": str(self.place / "pki/ca.crt"),
                        },
                    }
                ],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
            path = self.place / f"{name}.kubeconfig"
            path.write_text(json.dumps(config))
            path.chmod(0o600)
        tokens = self.place / "pki/tokens"
        tokens.write_text("".join(rows))
        tokens.chmod(0o600)

    def _control_plane(self) -> None:
        machine, pki = self.control, self.place / "pki"
        store = "http://127.0.0.1:2379"
        machine.serve(
            "etcd",
            *(str(self._bin / "etcd"), f"--data-dir={machine.place}/etcd"),
            *(f"--listen-client-urls={store}", f"--advertise-client-urls={store}"),
            *("--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync"),
        )
        machine.serve(
            "apiserver",
            *(str(self._bin / "kube-apiserver"), f"--etcd-servers={store}"),
            *(f"--bind-address={SERVER}", "--secure-port=6443", "--insecure-port=0"),
            *(f"--advertise-address={SERVER}", "--allow-privileged=true"),
            *(f"--tls-cert-file={pki}/api.crt", f"--tls-private-key-file={pki}/api.key"),
            *(f"--client-ca-file={pki}/ca.crt", f"--token-auth-file={pki}/tokens"),
            *(f"--service-cluster-ip-range={SERVICES}0/16", "--authorization-mode=Node,RBAC"),
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={pki}/accounts.key",
            f"--service-account-key-file={pki}/accounts.pub",
            "--kubelet-preferred-address-types=InternalIP",
        )
        access = f"--kubeconfig={self.place}/admin.kubeconfig"
        machine.serve(
            "controllers",
            *(str(self._bin / "kube-controller-manager"), access, "--leader-elect=false"),
            f"--service-account-private-key-file={pki}/accounts.key",
            *(f"--root-ca-file={pki}/ca.crt", "--bind-address=127.0.0.1", "--port=0"),
        )
        machine.serve(
            "scheduler",
            *(str(self._bin / "kube-scheduler"), access, "--leader-elect=false"),
            *("--bind-address=127.0.0.1", "--port=0"),
        )
        machine.start()

    def _node(self, machine: Machine, address: str) -> None:
        place = machine.place
        (place / "containerd.toml").write_text(_CONTAINERD.format(place=place, pause=PAUSE))
        machine.serve("containerd", "containerd", "-c", str(place / "containerd.toml"))
        machine.serve(
            "kubelet",
            *(str(self._bin / "kubelet"), f"--kubeconfig={self.place}/{machine.name}.kubeconfig"),
            *(f"--hostname-override={machine.name}", f"--node-ip={address}"),
            *("--container-runtime=remote", f"--root-dir={place}/kubelet"),
            "--container-runtime-endpoint=unix:///run/containerd.sock",
            *("--cgroup-driver=cgroupfs", "--cgroups-per-qos=false", "--enforce-node-allocatable="),
            *("--fail-swap-on=false", "--eviction-hard=", "--image-gc-high-threshold=100"),
            *("--anonymous-auth=true", "--authorization-mode=AlwaysAllow"),
            *(f"--cert-dir={place}/pki", "--resolv-conf=", "--cluster-dns=10.96.0.10"),
            *("--cluster-domain=cluster.local", "--max-pods=250"),
            # A node that is deleted is known to be soon, and one that is made is ready soon.
            *("--node-status-update-frequency=4s", "--register-node=true"),
        )
        machine.serve(
            "proxy",
            *(str(self._bin / "kube-proxy"), f"--kubeconfig={self.place}/admin.kubeconfig"),
            *(f"--hostname-override={machine.name}", "--proxy-mode=iptables"),
            *("--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"),
            *("--conntrack-tcp-timeout-close-wait=0", f"--bind-address={address}"),
        )
        machine.start()

    def _load(self, machine: Machine) -> None:
        client = ("ctr", "-a", "/run/containerd.sock", "-n", "k8s.io")
        wait_for(
            lambda: machine.run(*client, "version").returncode == 0,
            lambda: machine.log("containerd")[-2000:],
        )
        for image in self.images:
            done = machine.run(*client, "images", "import", str(image), timeout=180)
            assert done.returncode == 0, done.stderr

    def _is_ready(self) -> bool:
        return self.try_kubectl("get", "--raw", "/readyz").returncode == 0


def wait_for(
    happened: Callable[[], object], explain: Callable[[], object], within: float = READY_WITHIN
) -> float:
    """Seconds until a condition held."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < within, explain()
        time.sleep(0.2)
    return time.monotonic() - began


def _underlay(namespaces: Iterable[str]) -> None:
    kernel.run("ip", "netns", "add", CONTROL)
    control = ["link add underlay type bridge", f"addr add {SERVER}/24 dev underlay"]
    lines = [*control, "link set underlay up", "link set lo up"]
    for number, namespace in enumerate(namespaces, 1):
        kernel.run("ip", "netns", "add", namespace)
        lines.append(f"link add to{number} type veth peer name eth0 netns {namespace}")
        lines.append(f"link set to{number} master underlay up")
    kernel.run("ip", "-n", CONTROL, "-batch", "-", stdin="\n".join(lines) + "\n")
    for number, namespace in enumerate(namespaces, 1):
        own = ["link set lo up", f"addr add {UNDERLAY}1{number}/24 dev eth0"]
        own += ["link set eth0 up", f"route add default via {SERVER}"]
        kernel.run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(own) + "\n")


def _authority(pki: Path) -> None:
    """Keys and certificates, for a day."""
    pki.mkdir(parents=True)
    names = f"IP:{SERVER},IP:127.0.0.1,IP:{SERVICES}1,DNS:kubernetes.default.svc"
    (pki / "names").write_text(f"subjectAltName={names}")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=ca -keyout ca.key -out ca.crt",
        "genrsa -out accounts.key 2048",
        "rsa -in accounts.key -pubout -out accounts.pub",
        "req -newkey rsa:2048 -nodes -subj /CN=kube-apiserver -keyout api.key -out api.csr",
        "x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile names "
        "-out api.crt",
    ):
        subprocess.run(
            ["openssl", *command.split()], cwd=pki, capture_output=True, check=True, timeout=60
        )


def _cgroups() -> list[str]:
    """Those that containerd makes for pods, in every hierarchy."""
    found = []
    for top in Path("/sys/fs/cgroup").glob("**/k8s.io"):
        found += [where for where, _, _ in os.walk(top)]
    return found


def _is_alive(cgroup: str) -> bool:
    for where, _, _ in os.walk(cgroup):
        try:
            if (Path(where) / "cgroup.procs").read_text():
                return True
        except OSError:  # it went meanwhile
            continue
    return False


def _remove_cgroup(path: str) -> None:
    """What died in it may need a moment to be gone."""

    def removed() -> bool:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    wait_for(removed, lambda: f"{path} is in use", within=10)
