"""Weaver in a cluster, as its tests ask it: daemons, pods, what passes between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.e2e.image import REFERENCE
from tests.kubernetes.cluster import Cluster, Json, wait_for
from weaver.lab.processes import Process

SYSTEM = ("-n", "kube-system")
DAEMONS = "app.kubernetes.io/name=weaver"

_ECHO = """
import socket, threading
def serve(end):
    while data := end.recv(65536):
        end.sendall(data)
server = socket.create_server(("", 7))
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""

_TALK = """
import socket, sys, time
end = socket.create_connection((sys.argv[1], 7), timeout=60)
sent, began, worst = 0, time.monotonic(), 0.0
print("talking", flush=True)
while True:
    at = time.monotonic()
    line = b"%015d\\n" % sent
    end.sendall(line)
    data = b""
    while len(data) < 16:
        piece = end.recv(16 - len(data))
        if not piece:
            sys.exit("the other end closed after %d" % sent)
        data += piece
    assert data == line, data
    sent += 1
    worst = max(worst, time.monotonic() - at)
    print(sent, "%.3f" % worst, flush=True)
    time.sleep(0.02)
"""


def until_rolled_out(cluster: Cluster) -> None:
    """Every node's daemon is there, new if it is to be, and ready."""
    cluster.kubectl(*SYSTEM, "rollout", "status", "daemonset/weaver", "--timeout=170s", timeout=180)


def daemons(cluster: Cluster) -> dict[str, Json]:
    """Node -> the pod that weaver is there."""
    pods = cluster.get(*SYSTEM, "pods", "-l", DAEMONS)["items"]
    return {
        pod["spec"]["nodeName"]: pod for pod in pods if "deletionTimestamp" not in pod["metadata"]
    }


def weaver(cluster: Cluster, node: str, *args: str) -> str:
    """A command in a daemon's own pod, as an operator gives it."""
    pod = daemons(cluster)[node]["metadata"]["name"]
    return cluster.kubectl(*SYSTEM, "exec", pod, "-c", "weaver", "--", "weaver", *args)


def asked(cluster: Cluster, node: str, *args: str) -> Any:
    return json.loads(weaver(cluster, node, *args, "--json"))


def daemon_process(cluster: Cluster, node: str) -> Process:
    """The daemon itself; its helpers and workers have other commands."""
    found = cluster.nodes[node].processes("launch", "--kubernetes")
    assert found, f"no daemon runs on {node}"
    return found[0]


def pod(name: str, node: str = "", **spec: Any) -> Json:
    """One that sleeps, in an image that is on every node."""
    container = {
        "name": "main",
        "image": REFERENCE,
        "imagePullPolicy": "Never",
        "command": ["/bin/sleep", "100000"],
        **spec.pop("container", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            **({"nodeName": node} if node else {}),
            **spec,
        },
    }


def server(name: str, node: str, **spec: Any) -> Json:
    """One whose port 80 answers with its name."""
    script = f"mkdir /www; echo {name} >/www/index.html; exec httpd -f -p 80 -h /www"
    container = {"command": ["/bin/sh", "-c", script], **spec.pop("container", {})}
    return pod(name, node, container=container, **spec)


def with_python(name: str, node: str, program: str) -> Json:
    """One that runs a program of ours in weaver's own image, as any pod: nothing of the host's."""
    container = {"image": "weaver", "command": ["/usr/bin/python3", "-c", program]}
    return pod(name, node, container=container)


def echo(name: str, node: str) -> Json:
    return with_python(name, node, _ECHO)


def addresses(cluster: Cluster, *names: str, within: float = 120) -> dict[str, str]:
    """Those of running pods, once they have them."""
    found: dict[str, str] = {}

    def running() -> bool:
        found.clear()
        for item in cluster.get("pods")["items"]:
            name, status = item["metadata"]["name"], item["status"]
            if name in names and status["phase"] == "Running" and "podIP" in status:
                found[name] = status["podIP"]
        return set(found) == set(names)

    wait_for(running, lambda: cluster.kubectl("describe", "pods")[-4000:], within)
    return found


def remove(cluster: Cluster, *names: str) -> None:
    cluster.kubectl("delete", "pod", *names, "--grace-period=0", "--force", "--ignore-not-found")
    left = set(names)

    def gone() -> bool:
        there = {item["metadata"]["name"] for item in cluster.get("pods")["items"]}
        return not there & left

    wait_for(gone, lambda: cluster.kubectl("get", "pods"))


def fetch(cluster: Cluster, source: str, url: str) -> str:
    """What a pod is answered there; empty, if nothing."""
    command = ("timeout", "5", "wget", "-qO-", url)
    return cluster.try_kubectl("exec", source, "--", *command).stdout.strip()


class Conversation:
    """One TCP connection between two pods, that says a line fifty times a second and hears it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def so_far(self) -> tuple[int, float]:
        """Lines that came back, and the longest wait for one, in seconds."""
        status = self._cluster.get("pod", "talker")["status"]
        said = self._cluster.kubectl("logs", "talker", "--tail=3")
        assert status["phase"] == "Running", f"the connection was lost: {said}"
        # The last line may be one that is being written.
        for line in reversed(said.splitlines()):
            words = line.split()
            if len(words) == 2:
                return int(words[0]), float(words[1])
        return 0, 0.0

    def goes_on(self) -> tuple[int, float]:
        """The same, once more lines have come back than by now."""
        before, _ = self.so_far()
        latest = (0, 0.0)

        def more() -> bool:
            nonlocal latest
            latest = self.so_far()
            return latest[0] > before + 25

        wait_for(more, lambda: f"nothing comes back: {before}, {latest}", within=60)
        return latest


@contextmanager
def conversation(cluster: Cluster, near: str, far: str) -> Iterator[Conversation]:
    """Between a pod on each of two nodes. That it never breaks is asked at its end, too."""
    cluster.apply(echo("listener", far))
    at = addresses(cluster, "listener")["listener"]
    program = f"import sys; sys.argv = ['', '{at}']\n{_TALK}"
    talker = with_python("talker", near, program)
    talker["spec"]["restartPolicy"] = "Never"
    cluster.apply(talker)
    addresses(cluster, "talker")
    watched = Conversation(cluster)
    try:
        wait_for(lambda: watched.so_far()[0] > 50, lambda: cluster.kubectl("logs", "talker"))
        yield watched
        watched.goes_on()
    finally:
        remove(cluster, "listener", "talker")


def shares(cluster: Cluster, node: str) -> Mapping[str, int]:
    """Nickname -> addresses that it owns, as one daemon sees it."""
    found: list[Json] = asked(cluster, node, "status", "ipam")["shares"]
    return {row["nickname"]: row["addresses"] for row in found if row["addresses"]}
