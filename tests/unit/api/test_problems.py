"""The mapping of errors to problems."""

from backend.api import problems
from backend.domain.errors import Busy


def test_too_many_waiting_requests_are_called_busy() -> None:
    """The status is 503, as for an engine that does not answer, but the type is another."""
    problem, _ = problems.from_error(Busy("too many"))
    assert (problem.status, problem.name) == (503, "busy")


def test_every_problem_of_503_says_what_happened() -> None:
    """Problems of one type differ by their detail, so a response leads to the place that raised it."""
    constants = [p for p in vars(problems).values() if isinstance(p, problems.Problem)]
    details = [p.detail for p in constants if p.status == 503]
    assert None not in details
    assert len(set(details)) == len(details)
