"""Prometheus metrics, computed from the status when asked: nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


class _Collector:
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status
        gauges = {
            "weaver_ready": ("Whether pods can be attached", int(status["ready"])),
            "weaver_peers": ("Known peers, ourselves included", len(status["peers"])),
            "weaver_attachments": ("Attached pods", len(status["attachments"])),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        ranges = (status["ipam"], *status["ipam"]["others"])
        for name, text, key in (
            ("weaver_ipam_used", "Addresses in use here", "used"),
            ("weaver_ipam_free", "Addresses free here", "free"),
            ("weaver_ipam_conflicts", "Disputed slices", "conflicts"),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["range"])
            for one in ranges:
                value = one[key]
                gauge.add_metric([one["range"]], len(value) if key == "conflicts" else value)
            yield gauge
        connections = GaugeMetricFamily("weaver_connections", "Connections", labels=["state"])
        states = [c["state"] for c in status["connections"]]
        for state in ("established", "handshake"):
            connections.add_metric([state], states.count(state))
        yield connections
        links = GaugeMetricFamily("weaver_links", "Data paths to peers", labels=["state"])
        states = [link["state"] for link in status["links"]]
        for state in ("direct", "relayed", "down"):
            links.add_metric([state], states.count(state))
        yield links
        overlays = GaugeMetricFamily("weaver_overlays", "Peers by overlay", labels=["overlay"])
        used = [link["overlay"] for link in status["links"] if link["state"] != "down"]
        for overlay in ("fastdp", "sleeve"):
            overlays.add_metric([overlay], used.count(overlay))
        yield overlays
        kernel = CounterMetricFamily(
            "weaver_kernel_drops", "Drops of the fast path by reason", labels=["reason"]
        )
        for reason, count in status["fastdp"]["drops"].items():
            kernel.add_metric([reason], count)
        yield kernel
        refusals = CounterMetricFamily("weaver_refusals", "Refusals by reason", labels=["reason"])
        for reason, count in status["counters"].items():
            refusals.add_metric([str(reason)], count)
        yield refusals
        yield CounterMetricFamily(
            "weaver_worker_restarts", "Worker restarts", value=status["worker"]["restarts"]
        )
        worker = status["worker_counters"]
        if worker is None:
            return
        for field in ("tx_frames", "tx_octets", "rx_frames", "rx_octets", "relayed"):
            yield CounterMetricFamily(f"weaver_{field}", f"Worker: {field}", value=worker[field])
        drops = CounterMetricFamily("weaver_drops", "Drops by reason", labels=["reason"])
        for reason, count in worker["drops"]:
            drops.add_metric([reason], count)
        yield drops


def metrics_text(status: dict[str, Any]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collector(status))
    return generate_latest(registry)
