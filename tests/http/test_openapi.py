"""The OpenAPI document contains the contract, and Schemathesis finds no undocumented response."""

import re
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from backend.api.app import create_app
from backend.settings import Settings
from tests.http.conftest import OPERATOR
from tests.support.http_server import HttpServer

pytestmark = pytest.mark.xdist_group("http")
SCHEMA: dict[str, Any] = create_app(Settings(admin_token=OPERATOR)).openapi()
CONTRACT = {
    "POST /api/v1/applications": 201,
    "GET /api/v1/applications": 200,
    "GET /api/v1/applications/{token}": 200,
    "PATCH /api/v1/applications/{token}": 200,
    "DELETE /api/v1/applications/{token}": 204,
    "POST /api/v1/applications/{token}/chats": 202,
    "GET /api/v1/applications/{token}/chats": 200,
    "GET /api/v1/applications/{token}/chats/{chat}": 200,
    "DELETE /api/v1/applications/{token}/chats/{chat}": 204,
    "POST /api/v1/applications/{token}/chats/{chat}/messages": 202,
    "POST /api/v1/applications/{token}/chats/{chat}/messages/batch": 202,
    "GET /api/v1/applications/{token}/chats/{chat}/messages": 200,
    "GET /api/v1/applications/{token}/chats/{chat}/messages/stream": 200,
    "GET /api/v1/applications/{token}/chats/{chat}/messages/{number}": 200,
    "PATCH /api/v1/applications/{token}/chats/{chat}/messages/{number}": 200,
    "DELETE /api/v1/applications/{token}/chats/{chat}/messages/{number}": 204,
    "GET /api/v1/applications/{token}/messages": 200,
    "POST /api/v1/messages/reindex": 202,
}
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in SCHEMA["paths"].items()
    for method, operation in methods.items()
}
CHECKS = [
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


def test_every_route_of_the_contract_is_documented() -> None:
    """OpenAPI 3.1: each operation has an id, a description, and the status of the contract."""
    assert SCHEMA["openapi"].startswith("3.1")
    assert set(CONTRACT) <= set(OPERATIONS)
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z_]+", name) for name in names)
    for route, status in CONTRACT.items():
        assert str(status) in OPERATIONS[route]["responses"]
        assert OPERATIONS[route]["description"].strip().endswith(".")


def test_every_problem_is_one_of_rfc_9457() -> None:
    """Each error is application/problem+json with one schema; 429 and 503 have a Retry-After."""
    for route in CONTRACT:
        for status, answer in OPERATIONS[route]["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"]
                assert answer["description"]
            if int(status) in (429, 503):
                assert "Retry-After" in answer["headers"]
    problem = SCHEMA["components"]["schemas"]["Problem"]
    assert set(problem["required"]) == {"type", "title", "status", "detail"}


def test_operators_routes_have_the_security_scheme_and_no_others() -> None:
    """A bearer token. Without an admin token, the document has neither the routes nor the scheme."""
    assert SCHEMA["components"]["securitySchemes"]["Operator"]["scheme"] == "bearer"
    secured = {route for route, operation in OPERATIONS.items() if "security" in operation}
    assert secured == {"GET /api/v1/applications", "POST /api/v1/messages/reindex"}
    without = create_app(Settings()).openapi()
    assert "securitySchemes" not in without["components"]
    assert list(without["paths"]["/api/v1/applications"]) == ["post"]


def test_every_schema_and_its_examples_are_valid() -> None:
    """Each is valid JSON Schema 2020-12, and each example conforms to its schema."""
    for name, model in SCHEMA["components"]["schemas"].items():
        Draft202012Validator.check_schema(model)
        for field, schema in model.get("properties", {}).items():
            plain = "$ref" not in str(schema)
            for example in schema.get("examples", []):
                assert not plain or Draft202012Validator(schema).is_valid(example), (name, field)


def test_every_parameter_and_every_problem_has_an_example() -> None:
    """The example of a problem has the problem's status."""
    for route in CONTRACT:
        operation = OPERATIONS[route]
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            assert (
                schema.get("examples")
                or {"enum", "const"} & set(schema)
                or schema["type"] == "boolean"
            ), (
                route,
                parameter["name"],
            )
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                example = answer["content"]["application/problem+json"]["example"]
                assert example["status"] == int(status)


def test_the_server_serves_this_document(shared_server: HttpServer) -> None:
    """The document that this process builds from the same definitions."""
    assert shared_server("GET", "/openapi.json").json == SCHEMA


# OpenAPI cannot say which query parameters exclude each other: valid ones may be refused together.
LIST_MESSAGES = "GET /api/v1/applications/{token}/chats/{chat}/messages"
CONFIG = schemathesis.Config.from_dict(
    {
        "operations": [
            {
                "include-name": LIST_MESSAGES,
                "checks": {"positive_data_acceptance": {"expected-statuses": [200, 304, 404, 422]}},
            }
        ]
    }
)
# Schemathesis reads a response to its end, which a stream does not have.
STREAMS = {route for route in OPERATIONS if route.endswith("/stream")}
FINITE = deepcopy(SCHEMA)  # Schemathesis changes its document
for _route in STREAMS:
    del FINITE["paths"][_route.partition(" ")[2]]
API = schemathesis.openapi.from_dict(FINITE, config=CONFIG)
BOUNDED = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


@pytest.mark.parametrize("route", sorted(set(OPERATIONS) - STREAMS))
def test_every_response_is_documented(shared_server: HttpServer, route: str) -> None:
    """No request gets a 5xx, or a status or body that is not documented."""
    method, _, path = route.partition(" ")

    @BOUNDED
    @given(case=API[path][method].as_strategy())
    def holds(case: Any) -> None:
        case.call_and_validate(base_url=f"http://127.0.0.1:{shared_server.port}", checks=CHECKS)

    holds()


@pytest.mark.parametrize(
    "route", [route for route, operation in OPERATIONS.items() if "security" in operation]
)
def test_every_response_to_an_operator_is_documented(shared_server: HttpServer, route: str) -> None:
    """The same with the operator's token, on the routes that require it."""
    method, _, path = route.partition(" ")
    seen: set[int] = set()

    @BOUNDED
    @given(case=API[path][method].as_strategy())
    def holds(case: Any) -> None:
        case.headers["Authorization"] = f"Bearer {OPERATOR}"
        seen.add(
            case.call_and_validate(
                base_url=f"http://127.0.0.1:{shared_server.port}", checks=CHECKS
            ).status_code
        )

    holds()
    assert CONTRACT[route] in seen


def test_every_response_in_a_sequence_is_documented(shared_server: HttpServer) -> None:
    """Sequences that create, read, change and delete, along the links of the document."""
    API.config.update(base_url=f"http://127.0.0.1:{shared_server.port}")
    machine = API.as_state_machine()
    machine.run(settings=settings(BOUNDED, max_examples=12, stateful_step_count=10))
