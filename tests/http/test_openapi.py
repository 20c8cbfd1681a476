"""OpenAPI: it says what the contract promises, and Schemathesis finds nothing that it does not say."""

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
    "GET /api/v1/applications/{token}/chats/{chat}/messages/{number}": 200,
    "PATCH /api/v1/applications/{token}/chats/{chat}/messages/{number}": 200,
    "DELETE /api/v1/applications/{token}/chats/{chat}/messages/{number}": 204,
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


def test_it_names_every_route_of_the_contract_with_its_success() -> None:
    """OpenAPI 3.1; each operation with a name, a sentence, and the status of the contract."""
    assert SCHEMA["openapi"].startswith("3.1")
    assert set(CONTRACT) <= set(OPERATIONS)
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z_]+", name) for name in names)
    for route, status in CONTRACT.items():
        assert str(status) in OPERATIONS[route]["responses"]
        assert OPERATIONS[route]["description"].strip().endswith(".")


def test_every_problem_is_one_of_rfc_9457() -> None:
    """Each error's content is application/problem+json, of one shape; retries are announced."""
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
    """A bearer token; without an admin token neither the routes nor the scheme are there."""
    assert SCHEMA["components"]["securitySchemes"]["Operator"]["scheme"] == "bearer"
    secured = {route for route, operation in OPERATIONS.items() if "security" in operation}
    assert secured == {"GET /api/v1/applications", "POST /api/v1/messages/reindex"}
    without = create_app(Settings()).openapi()
    assert "securitySchemes" not in without["components"]
    assert list(without["paths"]["/api/v1/applications"]) == ["post"]


def test_every_shape_and_its_examples_are_valid() -> None:
    """Each schema is one of JSON Schema 2020-12, and every example fits its own."""
    for name, shape in SCHEMA["components"]["schemas"].items():
        Draft202012Validator.check_schema(shape)
        for field, schema in shape.get("properties", {}).items():
            plain = "$ref" not in str(schema)
            for example in schema.get("examples", []):
                assert not plain or Draft202012Validator(schema).is_valid(example), (name, field)


def test_every_parameter_and_every_problem_has_an_example() -> None:
    """A problem's is one of its own status."""
    for route in CONTRACT:
        operation = OPERATIONS[route]
        for parameter in operation.get("parameters", []):
            told = parameter["schema"]
            assert (
                told.get("examples") or {"enum", "const"} & set(told) or told["type"] == "boolean"
            ), (
                route,
                parameter["name"],
            )
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                example = answer["content"]["application/problem+json"]["example"]
                assert example["status"] == int(status)


def test_the_server_serves_that_schema(shared_server: HttpServer) -> None:
    """The one that this process makes from the same definitions."""
    assert shared_server("GET", "/openapi.json").json == SCHEMA


API = schemathesis.openapi.from_dict(deepcopy(SCHEMA))  # Schemathesis changes its document
BOUNDED = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


@pytest.mark.parametrize("route", OPERATIONS)
def test_no_request_finds_what_the_schema_does_not_say(
    shared_server: HttpServer, route: str
) -> None:
    """No 5xx, no status and no body that is not documented, whatever is sent."""
    method, _, path = route.partition(" ")

    @BOUNDED
    @given(case=API[path][method].as_strategy())
    def holds(case: Any) -> None:
        case.call_and_validate(base_url=f"http://127.0.0.1:{shared_server.port}", checks=CHECKS)

    holds()


@pytest.mark.parametrize(
    "route", [route for route, operation in OPERATIONS.items() if "security" in operation]
)
def test_no_operators_request_finds_what_the_schema_does_not_say(
    shared_server: HttpServer, route: str
) -> None:
    """With the operator's token: what only it opens is held against the schema, too."""
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


def test_no_sequence_finds_what_the_schema_does_not_say(shared_server: HttpServer) -> None:
    """Created, read, changed and deleted along the links of the schema."""
    API.config.update(base_url=f"http://127.0.0.1:{shared_server.port}")
    machine = API.as_state_machine()
    machine.run(settings=settings(BOUNDED, max_examples=12, stateful_step_count=10))
