"""The same manifest once the secret with a password is there: everything is sealed. After the tests
of the cluster as it comes, of which the last took a node away."""

from __future__ import annotations

from tests.kubernetes.cluster import Cluster, wait_for
from tests.kubernetes.mesh import (
    SYSTEM,
    addresses,
    asked,
    conversation,
    fetch,
    remove,
    server,
    until_rolled_out,
    weaver,
)


def test_a_password_of_a_secret_seals_what_pods_say(cluster: Cluster) -> None:
    secret = ("create", "secret", "generic", "weaver-password", "--from-literal=password=a secret")
    cluster.kubectl(*SYSTEM, *secret)
    cluster.kubectl(*SYSTEM, "rollout", "restart", "daemonset/weaver")
    until_rolled_out(cluster)

    def sealed() -> bool:
        links = asked(cluster, "node1", "status", "links")
        found = [row for row in links if row.get("nickname") == "node2"]
        return bool(found) and found[0]["overlay"] == "sleeve" and bool(found[0]["cipher"])

    wait_for(sealed, lambda: weaver(cluster, "node1", "status", "links"), within=60)
    assert "NOT ENCRYPTED" not in weaver(cluster, "node1", "status").upper()
    with conversation(cluster, "node1", "node2") as talk:
        said, worst = talk.goes_on()
        print(f"sealed: {said} lines, the longest wait {worst} s")
    cluster.apply(server("sealed", "node2"), server("asks-sealed", "node1"))
    at = addresses(cluster, "sealed", "asks-sealed")
    assert fetch(cluster, "asks-sealed", f"http://{at['sealed']}/") == "sealed"
    remove(cluster, "sealed", "asks-sealed")
