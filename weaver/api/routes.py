"""Every route of the HTTP API, once: the server is made from this table, and the OpenAPI text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weaver import __version__
from weaver.api.schemas import row_schemas, rows_of


@dataclass(frozen=True, slots=True)
class Route:
    """``body`` names the JSON fields a request may have: name -> (JSON type, required)."""

    method: str
    path: str
    handler: str
    summary: str
    body: tuple[tuple[str, str, bool], ...] = ()

    @property
    def writes(self) -> bool:
        return self.method != "GET"


_PEERS = (("peers", "array", True),)
_KEY = (("container", "string", True), ("interface", "string", False))

ROUTES: tuple[Route, ...] = (
    Route("GET", "/status", "status_text", "The status page, as text"),
    Route("GET", "/healthz", "healthz", "Whether the daemon lives"),
    Route("GET", "/readyz", "readyz", "Whether pods can be attached"),
    Route("GET", "/metrics", "metrics", "Prometheus metrics"),
    Route("GET", "/v1/openapi.json", "openapi", "This description"),
    Route("GET", "/v1/version", "version", "The daemon's version"),
    Route("GET", "/v1/status", "status", "Everything at a glance"),
    Route("GET", "/v1/peers", "peers", "Known peers"),
    Route("GET", "/v1/connections", "connections", "Control connections, ended ones too"),
    Route("GET", "/v1/targets", "targets", "Addresses we connect to, and how that goes"),
    Route("GET", "/v1/links", "links", "The data path to every peer"),
    Route("GET", "/v1/routes", "routes", "Next hops and broadcast trees"),
    Route("GET", "/v1/channels", "channels", "Gossip channels and what was refused"),
    Route("GET", "/v1/attachments", "attachments", "Attached pods"),
    Route("GET", "/v1/report", "report", "Everything, for a bug report"),
    Route("GET", "/v1/events", "events", "What happens, as server-sent events"),
    Route("GET", "/v1/ipam", "ipam", "The range, its shares, conflicts"),
    Route("GET", "/v1/ipam/addresses", "ipam_list", "Addresses in use here"),
    Route("GET", "/v1/ipam/addresses/{address}", "ipam_who", "Whose an address is, and was"),
    Route("GET", "/v1/ipam/check", "ipam_check", "What is wrong with addresses, if anything"),
    Route("GET", "/v1/ipam/history", "ipam_history", "Addresses given out and freed, newest first"),
    Route("GET", "/v1/ipam/ring", "ipam_ring", "Who owns which slice of the range"),
    Route("POST", "/v1/connect", "connect", "Connect to peers, now and from now on", _PEERS),
    Route("POST", "/v1/forget", "forget", "Forget addresses of peers", _PEERS),
    Route("POST", "/v1/passwords/reload", "reload", "Read the password file again"),
    Route(
        "POST",
        "/v1/attachments",
        "attach",
        "Attach a network namespace",
        (
            ("container", "string", True),
            ("interface", "string", False),
            ("netns", "string", True),
            ("addresses", "array", False),
            ("ranges", "array", False),
            ("mac", "string", False),
            ("mtu", "integer", False),
        ),
    ),
    Route(
        "POST",
        "/v1/attachments/bounds",
        "shape",
        "Bound what a container's interface carries, in bits",
        (
            *_KEY,
            ("ingress_rate", "integer", False),
            ("ingress_burst", "integer", False),
            ("egress_rate", "integer", False),
            ("egress_burst", "integer", False),
        ),
    ),
    Route("DELETE", "/v1/attachments", "detach", "Detach a container", _KEY),
    Route(
        "POST",
        "/v1/expose",
        "expose",
        "Give the host an address of every range",
        (("address", "string", False),),
    ),
    Route("POST", "/v1/hide", "hide", "Take the host's address away"),
    Route(
        "POST",
        "/v1/ipam/allocate",
        "ipam_allocate",
        "Addresses for a key, of these ranges or of the first of each family",
        (*_KEY, ("ranges", "array", False)),
    ),
    Route(
        "POST",
        "/v1/ipam/ranges",
        "ipam_add_range",
        "One more range, from now on and over restarts",
        (("range", "string", True),),
    ),
    Route(
        "POST",
        "/v1/ipam/claim",
        "ipam_claim",
        "This address for a key",
        (*_KEY, ("address", "string", True), ("force", "boolean", False)),
    ),
    Route("POST", "/v1/ipam/free", "ipam_free", "Free a key's addresses", _KEY),
    Route(
        "POST",
        "/v1/ipam/collect",
        "ipam_collect",
        "Give up what nobody gives back, after two looks at it",
        (("dry_run", "boolean", False),),
    ),
    Route(
        "POST",
        "/v1/ipam/reclaim",
        "ipam_reclaim",
        "Take over the space of a peer that is gone for good",
        (("peer", "string", True), ("force", "boolean", False)),
    ),
    Route(
        "POST",
        "/v1/ipam/resolve",
        "ipam_resolve",
        "End a dispute: what is ours of it is ours",
        (("address", "string", True),),
    ),
    Route("POST", "/v1/stop", "stop", "Stop the daemon; pods keep their devices"),
    Route(
        "POST", "/v1/reset", "reset", "Hand the space over and stop", (("force", "boolean", False),)
    ),
)


def openapi() -> dict[str, Any]:
    """OpenAPI 3.1 of the table."""
    error = {"$ref": "#/components/schemas/Error"}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        operation: dict[str, Any] = {
            "operationId": route.handler,
            "summary": route.summary,
            "responses": {
                "200": {"description": "fine"},
                "default": {
                    "description": "refused",
                    "content": {"application/json": {"schema": error}},
                },
            },
        }
        if route.method == "GET" and (rows := rows_of(route.path)) is not None:
            operation["responses"]["200"]["content"] = {"application/json": {"schema": rows}}
        if route.body:
            schema = {
                "type": "object",
                "properties": {name: {"type": kind} for name, kind, _ in route.body},
                "required": [name for name, _, required in route.body if required],
                "additionalProperties": False,
            }
            operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "weaver", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {
                **row_schemas(),
                "Error": {
                    "type": "object",
                    "properties": {
                        "error": {
                            "type": "object",
                            "properties": {
                                "reason": {"type": "string"},
                                "message": {"type": "string"},
                            },
                            "required": ["reason", "message"],
                        }
                    },
                    "required": ["error"],
                },
            }
        },
    }
