"""JSON schemas of what the API answers. That of an event is read off the protobuf contract."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from worker.wire.event_pb2 import FrameEvent
from worker.wire.registry import FeedSettings

Schema = dict[str, Any]

ID: Schema = {"type": "string", "pattern": r"^\d+-\d+$", "examples": ["1760000000000-0"]}
TIME: Schema = {"type": "string", "format": "date-time"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {
    "anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]
}
_64_BITS: Schema = {"type": "string", "pattern": r"^\d+$"}
"""As protobuf's JSON has it: JavaScript's numbers are too small for them."""

_PLAIN = {
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_UINT32: COUNT,
    FieldDescriptor.TYPE_UINT64: _64_BITS,
    FieldDescriptor.TYPE_FLOAT: _NUMBER,
    FieldDescriptor.TYPE_DOUBLE: _NUMBER,
}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def either_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def record(required: Schema, **optional: Schema) -> Schema:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def table(of: Schema) -> Schema:
    """An object whose names are not known beforehand."""
    return {"type": "object", "additionalProperties": of}


def list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def message(descriptor: Descriptor) -> Schema:
    """A protobuf message in its canonical JSON with every plain field present."""
    if descriptor.full_name == "google.protobuf.Timestamp":
        return TIME
    required: Schema = {}
    optional: Schema = {}
    for field in descriptor.fields:
        kept = optional if field.has_presence else required
        kept[field.json_name] = _field(field)
    return record(required, **optional)


def _field(field: FieldDescriptor) -> Schema:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return table(_field(kind.fields_by_name["value"]))
    if kind is not None:
        one = message(kind)
    elif field.enum_type is not None:
        one = {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    else:
        one = _PLAIN[field.type]
    return list_of(one) if field.is_repeated else one


def schemas() -> dict[str, Schema]:
    """All schemas that the description names."""
    expression = record({"faces": COUNT, "share": SECONDS, "seconds": SECONDS})
    tally = {
        "faces": COUNT,
        "uncertain": COUNT,
        "seconds": SECONDS,
        "first": either_null(TIME),
        "last": either_null(TIME),
        "expressions": table(expression),
    }
    settings = FeedSettings.model_json_schema(mode="serialization")
    books = ("offered", "in_flight", "in_hand", "published", "dropped", "skipped", "dead")
    feed = record(
        {
            "settings": {"type": "object", "properties": settings["properties"]},
            **dict.fromkeys(books, COUNT),
            "oldest_age_s": SECONDS,
            "idle_s": either_null(SECONDS),
            "offered_per_s": either_null(SECONDS),
            "published_per_s": either_null(SECONDS),
            "owner": either_null(_TEXT),
            "last_event_id": either_null(ID),
            "last_event_age_s": either_null(SECONDS),
        }
    )
    worker = record(
        {
            "id": _TEXT,
            "name": _TEXT,
            "host": _TEXT,
            "pid": {"type": "integer"},
            "busy": {"type": "number"},
            "feeds": table({"type": "number"}),
            "only": either_null(list_of(_TEXT)),
        }
    )
    return {
        "Error": record({"error": _TEXT}),
        "FrameEvent": message(cast(Descriptor, FrameEvent.DESCRIPTOR)),
        "Events": record({"events": list_of(ref("FrameEvent")), "next": either_null(ID)}),
        "Feeds": record(
            {
                "server": record({"name": _TEXT, "now_ms": either_null(COUNT)}),
                "workers": COUNT,
                "feeds": table(feed),
                "complaints": table(_TEXT),
            }
        ),
        "Workers": record({"workers": list_of(worker)}),
        "Summary": record(
            {
                "feed": _TEXT,
                "events": COUNT,
                **tally,
                "tracks": list_of(record({"track_id": _64_BITS, **tally})),
                "next": either_null(ID),
            }
        ),
        "Session": record(
            {
                "tokens": {"type": "boolean"},
                "name": either_null(_TEXT),
                "feeds": list_of(_TEXT),
                "expires": either_null(TIME),
            }
        ),
        "Token": {
            "type": "object",
            "properties": {"token": _TEXT},
            "required": ["token"],
            "examples": [{"token": "mien_..."}],
        },
    }
