"""The description: that it is the truth, and that nothing it allows makes us fail."""

from __future__ import annotations

import re

from starlette.routing import Route

from tests.worker.web.conftest import Site
from tests.worker.web.fuzz import fuzz, prepare
from worker.wire.event_pb2 import FrameEvent
from worker.wire.server import Server


def test_every_route_of_the_api_is_described_and_no_other(site: Site) -> None:
    described = set(site.json("/api/openapi.json")["paths"])
    served = {
        route.path
        for route in site.app.routes
        if isinstance(route, Route) and route.path.startswith("/api/")
    }
    assert described == served - {"/api/openapi.json"}


def test_an_event_is_described_with_all_fields_of_the_contract(site: Site) -> None:
    schema = site.json("/api/openapi.json")["components"]["schemas"]["FrameEvent"]
    assert set(schema["properties"]) == {field.json_name for field in FrameEvent.DESCRIPTOR.fields}
    face = schema["properties"]["faces"]["items"]["properties"]
    assert face["trackId"]["type"] == "string", "64 bits are text in protobuf's JSON"
    assert face["source"]["enum"] == ["SOURCE_UNSPECIFIED", "SOURCE_DETECTED", "SOURCE_TRACKED"]


def test_whatever_is_asked_is_answered_as_described(site: Site, server: Server) -> None:
    prepare(server)
    done = fuzz(site.url, 40)
    assert done.returncode == 0, done.stdout[-4000:]
    found = re.search(r"(\d+) generated", done.stdout)
    assert found
    assert int(found[1]) > 200
