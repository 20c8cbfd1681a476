"""How a request of the load is named and recorded, for users and followers alike."""

from locust.contrib.fasthttp import ResponseContextManager

from loadtest.adapter.operations import Operation
from loadtest.recording import ROUTE_OF, ROUTES, Recorder

_NAMES = {operation: ROUTES[route].split(" ")[1] for operation, route in ROUTE_OF.items()}


def name_of(operation: Operation) -> str:
    """The name of an operation in Locust's statistics."""
    return _NAMES[operation]


def record_answer(
    recorder: Recorder,
    operation: Operation,
    at_s: float,
    micros: int,
    response: ResponseContextManager,
    failed: bool,
) -> None:
    """Record a request, and report it to Locust; `at_s` is when it was due, `micros` is its latency."""
    response.request_meta["response_time"] = micros / 1000
    recorder.record_request(at_s, micros, ROUTE_OF[operation], response.status_code, failed)
    if failed:
        response.failure(f"answered {response.status_code or 'nothing'}")
    else:
        response.success()
