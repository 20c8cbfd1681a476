"""How a request of the load is named and recorded, for users and followers alike."""

from locust.contrib.fasthttp import ResponseContextManager

from loadtest.recording import ROUTES, Recorder

_PARTS = [route.split(" ") for route in ROUTES]


def method_of(route: int) -> str:
    """The HTTP method of a route, which is given by its index in ROUTES."""
    return _PARTS[route][0]


def name_of(route: int) -> str:
    """The name of a route in Locust's statistics."""
    return _PARTS[route][1]


def record_answer(
    recorder: Recorder,
    route: int,
    at_s: float,
    micros: int,
    response: ResponseContextManager,
    failed: bool,
) -> None:
    """Record a request, and report it to Locust; `at_s` is when it was due, `micros` is its latency."""
    response.request_meta["response_time"] = micros / 1000
    recorder.record_request(at_s, micros, route, response.status_code, failed)
    if failed:
        response.failure(f"answered {response.status_code or 'nothing'}")
    else:
        response.success()
