"""JSON schemas of what a router shows of itself, made from the very structures it is shown from."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from mesh.router.link_status import LinkStatus
from mesh.router.status import (
    ChannelView,
    ConnectionStatus,
    PeerStatus,
    RouteStatus,
    TargetStatus,
)

Schema = dict[str, Any]

ROWS: dict[str, type] = {
    "/v1/peers": PeerStatus,
    "/v1/connections": ConnectionStatus,
    "/v1/targets": TargetStatus,
    "/v1/links": LinkStatus,
    "/v1/routes": RouteStatus,
    "/v1/channels": ChannelView,
}
"""What GET of these paths answers a list of."""

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}


def schema_of(kind: Any) -> Schema:  # noqa: ANN401  # whatever a field may be annotated with
    """The schema of a dataclass, or of the type of one of its fields."""
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    arguments = get_args(kind)
    if get_origin(kind) in (types.UnionType, Union):
        return {"anyOf": [schema_of(argument) for argument in arguments]}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": schema_of(arguments[0])}
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    assert is_dataclass(kind), f"no schema for {kind!r}"
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    return {
        "type": "object",
        "properties": {name: schema_of(hints[name]) for name in names},
        "required": names,
    }


def rows_of(path: str) -> Schema | None:
    """The schema of what GET answers there, where it is a list of structures."""
    row = ROWS.get(path)
    if row is None:
        return None
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{row.__name__}"}}


def row_schemas() -> dict[str, Schema]:
    return {row.__name__: schema_of(row) for row in ROWS.values()}
