"""The manifest on a real Kubernetes of three nodes: what pods, services and operators see.

In this order: the last test takes a node away.
"""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_network

from mesh.names import PeerName
from tests.kubernetes.cluster import CONTROL, NODES, UNDERLAY, Cluster, wait_for
from tests.kubernetes.mesh import (
    SYSTEM,
    addresses,
    asked,
    conversation,
    daemon_process,
    daemons,
    fetch,
    pod,
    remove,
    server,
    shares,
    until_rolled_out,
    weaver,
)
from weaver.kubernetes.nodes import ANNOTATION, CONDITION, REASON
from weaver.lab import kernel
from weaver.lab.processes import kill

RANGE = ip_network("10.32.0.0/12")
PODS = 30
PING = ("ping", "-qc1", "-W5")
USABLE_WITHIN = 60.0
"""Seconds from the deletion of a node until its addresses can be given out again."""


def test_the_manifest_is_all_that_is_needed(cluster: Cluster) -> None:
    """Every object is accepted, every node gets a daemon, none of which was started twice."""
    for kind in ("serviceaccount", "daemonset"):
        assert cluster.get(*SYSTEM, kind, "weaver")["metadata"]["name"] == "weaver"
    assert sorted(daemons(cluster)) == sorted(NODES)
    for found in daemons(cluster).values():
        (status,) = found["status"]["containerStatuses"]
        assert status["restartCount"] == 0, status


def test_nodes_are_told(cluster: Cluster) -> None:
    for node in cluster.get("nodes")["items"]:
        conditions = {c["type"]: c for c in node["status"]["conditions"]}
        assert conditions[CONDITION]["status"] == "False"
        assert conditions[CONDITION]["reason"] == REASON
        assert conditions["Ready"]["status"] == "True"
        assert PeerName.parse(node["metadata"]["annotations"][ANNOTATION])


def test_rights_are_enough_and_no_more(cluster: Cluster) -> None:
    account = "--as=system:serviceaccount:kube-system:weaver"

    def may(verb: str, what: str, *more: str) -> bool:
        said = cluster.try_kubectl("auth", "can-i", verb, what, account, *more).stdout
        return said.strip() == "yes"

    for verb in ("list", "watch", "patch"):
        assert may(verb, "nodes"), verb
    assert may("patch", "nodes", "--subresource=status")
    for verb, what in (
        *((verb, "nodes") for verb in ("create", "delete", "update")),
        *((verb, "pods") for verb in ("get", "list", "create", "delete")),
        *(("get", what) for what in ("secrets", "configmaps", "services")),
    ):
        assert not may(verb, what, *SYSTEM), (verb, what)
    for node in NODES:
        name = daemons(cluster)[node]["metadata"]["name"]
        said = cluster.kubectl(*SYSTEM, "logs", name)
        assert not re.search(r"forbidden|unauthorized", said), said


def test_pods_reach_each_other_on_all_pairs_and_go(cluster: Cluster) -> None:
    """Thirty at once, each of which answers each, also as a service; then none is left."""
    template = server("many", "")
    template["spec"].pop("terminationGracePeriodSeconds")
    template["spec"]["terminationGracePeriodSeconds"] = 1
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "many"},
            "spec": {
                "replicas": PODS,
                "selector": {"matchLabels": {"app": "many"}},
                "template": {"metadata": template["metadata"], "spec": template["spec"]},
            },
        },
        service("many", "many"),
    )
    cluster.kubectl("rollout", "status", "deployment/many", "--timeout=170s", timeout=180)
    there = cluster.get("pods", "-l", "app=many")["items"]
    at = {p["metadata"]["name"]: p["status"]["podIP"] for p in there}
    assert len(set(at.values())) == PODS
    assert all(ip_address(address) in RANGE for address in at.values())
    assert {p["spec"]["nodeName"] for p in there} == set(NODES)

    others = " ".join(at.values())
    script = f"for a in {others}; do ping -qc1 -W5 $a >/dev/null || echo $a; done"
    for name in at:
        lost = cluster.kubectl("exec", name, "--", "/bin/sh", "-c", script, timeout=200)
        assert not lost.strip(), f"{name} does not reach {lost}"
    cluster_ip = cluster.get("service", "many")["spec"]["clusterIP"]
    for name in list(at)[:6]:
        assert fetch(cluster, name, f"http://{cluster_ip}/") == "many"

    cluster.kubectl("delete", "deployment,service", "many", "--timeout=80s")
    wait_for(
        lambda: not attached(cluster, *NODES) & set(at.values()),
        lambda: "\n".join(weaver(cluster, node, "ps") for node in NODES),
    )


def test_published_ports_and_pods_of_the_hosts_network(cluster: Cluster) -> None:
    published = {"ports": [{"containerPort": 80, "hostPort": 8081}]}
    cluster.apply(
        server("published", "node1", container=published),
        server("of-the-host", "node2", hostNetwork=True),
        pod("asks", "node3"),
    )
    at = addresses(cluster, "published", "of-the-host", "asks")
    assert at["of-the-host"] == f"{UNDERLAY}12"
    assert ip_address(at["published"]) in RANGE
    # From a pod of another node, from a pod of the host's network, and from outside of the cluster.
    for source in ("asks", "of-the-host"):
        assert fetch(cluster, source, f"http://{UNDERLAY}11:8081/") == "published"
        assert fetch(cluster, source, f"http://{at['published']}/") == "published"
    assert fetch(cluster, "asks", f"http://{UNDERLAY}12/") == "of-the-host"
    outside = ("nsenter", f"--net=/run/netns/{CONTROL}", "busybox", "wget", "-qO-")
    assert kernel.run(*outside, f"http://{UNDERLAY}11:8081/").strip() == "published"
    remove(cluster, "published", "of-the-host", "asks")


def test_a_service_of_a_pod_reaches_the_pod_itself(cluster: Cluster) -> None:
    """What a pod sends to its own service may come back to it: hairpin."""
    cluster.apply(server("own", "node1"), service("own", "own"))
    addresses(cluster, "own")
    at = cluster.get("service", "own")["spec"]["clusterIP"]
    wait_for(
        lambda: fetch(cluster, "own", f"http://{at}/") == "own",
        lambda: "its own service does not answer",
        within=20,
    )
    cluster.kubectl("delete", "service", "own")
    remove(cluster, "own")


def test_a_daemon_is_killed_while_pods_talk(cluster: Cluster) -> None:
    with conversation(cluster, "node1", "node2") as talk:
        assert overlay(cluster, "node1", "node2") == "fastdp"
        before = daemons(cluster)["node1"]["status"]["containerStatuses"][0]["restartCount"]
        kill([daemon_process(cluster, "node1")])
        talk.goes_on()

        def back() -> bool:
            (status,) = daemons(cluster)["node1"]["status"]["containerStatuses"]
            return bool(status["restartCount"] > before and status["ready"])

        wait_for(back, lambda: cluster.kubectl(*SYSTEM, "describe", "pods")[-4000:])
        said, worst = talk.goes_on()
        print(f"killed: {said} lines, the longest wait {worst} s")
        assert overlay(cluster, "node1", "node2") == "fastdp"


def test_daemons_are_replaced_one_by_one_while_pods_talk(cluster: Cluster) -> None:
    """A rolling update of the DaemonSet: new pods of weaver on every node, and no pod of others'
    notices."""
    cluster.apply(pod("stays", "node3"))
    kept = addresses(cluster, "stays")
    with conversation(cluster, "node1", "node2") as talk:
        before = {node: found["metadata"]["uid"] for node, found in daemons(cluster).items()}
        cluster.kubectl(*SYSTEM, "rollout", "restart", "daemonset/weaver")
        until_rolled_out(cluster)
        after = {node: found["metadata"]["uid"] for node, found in daemons(cluster).items()}
        assert all(after[node] != before[node] for node in NODES)
        said, worst = talk.goes_on()
        print(f"replaced: {said} lines, the longest wait {worst} s")
    cluster.apply(pod("new", "node1"))
    addresses(cluster, "new")
    assert not cluster.kubectl(
        "exec", "new", "--", "ping", "-qc1", "-W5", kept["stays"]
    ).startswith("ping: ")
    for node in cluster.get("nodes")["items"]:
        conditions = {c["type"]: c["status"] for c in node["status"]["conditions"]}
        assert conditions[CONDITION] == "False"
    remove(cluster, "stays", "new")


def test_a_pod_that_goes_while_no_daemon_runs_gives_its_address_back(cluster: Cluster) -> None:
    """Nothing runs there while the DaemonSet selects other nodes; kubelet's DEL succeeds."""
    cluster.apply(pod("goes", "node1"))
    address = addresses(cluster, "goes")["goes"]
    elsewhere = {"spec": {"template": {"spec": {"nodeSelector": {"weaver": "here"}}}}}
    for node in NODES[1:]:
        cluster.kubectl("label", "node", node, "weaver=here")
    cluster.kubectl(*SYSTEM, "patch", "daemonset", "weaver", "-p", json.dumps(elsewhere))
    wait_for(
        lambda: not cluster.nodes["node1"].processes("launch", "--kubernetes"),
        lambda: "the daemon stays",
    )
    remove(cluster, "goes")
    cluster.kubectl("label", "node", "node1", "weaver=here")
    wait_for(lambda: "node1" in daemons(cluster), lambda: "no new daemon")
    until_rolled_out(cluster)
    assert address not in attached(cluster, "node1")


def test_the_api_server_restarts(cluster: Cluster) -> None:
    """What is watched is watched on; a pod is made meanwhile as soon as the server is back."""
    kill(cluster.control.processes("--secure-port=6443"))
    wait_for(cluster._is_ready, lambda: cluster.control.log("apiserver")[-2000:])
    cluster.kubectl("annotate", "node", "node2", f"{ANNOTATION}-", "--overwrite")
    wait_for(
        lambda: ANNOTATION in cluster.get("node", "node2")["metadata"]["annotations"],
        lambda: "node2 is not told anew: nobody watches",
        within=60,
    )
    cluster.apply(pod("later", "node2"))
    assert ip_address(addresses(cluster, "later")["later"]) in RANGE
    remove(cluster, "later")


def test_the_addresses_of_a_deleted_node_are_used_again(cluster: Cluster) -> None:
    cluster.apply(pod("lost", "node3"))
    address = addresses(cluster, "lost")["lost"]
    assert "node3" in shares(cluster, "node1")
    cluster.nodes["node3"].stop()
    cluster.kubectl("delete", "node", "node3")

    def usable() -> bool:
        """Whether that very address can be given out, by whichever node has it now."""
        return any(
            claimed(cluster, node, address) for node in NODES[:2] if node in shares(cluster, node)
        )

    took = wait_for(
        usable,
        lambda: "\n".join(weaver(cluster, node, "status", "ipam") for node in NODES[:2]),
        within=USABLE_WITHIN,
    )
    print(f"an address of the deleted node was given out again after {took:.0f} s")
    for node in NODES[:2]:
        assert "node3" not in shares(cluster, node)
        targets = asked(cluster, node, "status", "targets")
        assert all(f"{UNDERLAY}13" not in row["target"] for row in targets)


def attached(cluster: Cluster, *nodes: str) -> set[str]:
    """Addresses of the containers that these nodes' daemons have attached."""
    rows = [row for node in nodes for row in asked(cluster, node, "ps")]
    return {address.partition("/")[0] for row in rows for address in row["addresses"]}


def claimed(cluster: Cluster, node: str, address: str) -> bool:
    name = daemons(cluster)[node]["metadata"]["name"]
    command = ("weaver", "ipam", "claim", "again", address)
    return cluster.try_kubectl(*SYSTEM, "exec", name, "--", *command).returncode == 0


def overlay(cluster: Cluster, node: str, other: str) -> str:
    """What carries frames from one node to another, once their links are settled."""
    found: list[str] = []

    def settled() -> bool:
        rows = asked(cluster, node, "status", "links")
        found[:] = [row["overlay"] for row in rows if row.get("nickname") == other]
        return found == ["fastdp"]

    wait_for(settled, lambda: weaver(cluster, node, "status", "links"), within=60)
    return found[0]


def service(name: str, app: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80}]},
    }
