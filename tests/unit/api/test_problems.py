"""The mapping of errors to problems."""

from backend.api import problems
from backend.domain.errors import Busy, SchemaMismatch


def test_too_many_waiting_requests_are_called_busy() -> None:
    """The status is 503, as for an engine that does not answer, but the type is another."""
    problem, _ = problems.from_error(Busy("too many"))
    assert (problem.status, problem.name) == (503, "busy")


def test_a_schema_of_another_release_is_a_refusal_that_names_no_address() -> None:
    """Clients try again; the server ends, and the next one answers."""
    error = SchemaMismatch("the database postgresql://db.example/x has no tables yet")
    problem, detail = problems.from_error(error)
    assert (problem.status, problem.name) == (503, "unavailable")
    assert "db.example" not in detail
    assert "retry-after" in problems.error_response(error, b"-").headers


def test_every_problem_of_503_says_what_happened() -> None:
    """Problems of one type differ by their detail, so a response leads to the place that raised it."""
    constants = [p for p in vars(problems).values() if isinstance(p, problems.Problem)]
    details = [p.detail for p in constants if p.status == 503]
    assert None not in details
    assert len(set(details)) == len(details)
