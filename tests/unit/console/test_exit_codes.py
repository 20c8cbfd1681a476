"""How errors are reported on the command line."""

import pytest

from backend.domain.errors import EngineDown, InstaChatError, NotStoredYet, Unconfirmed
from instachat_cli.console.exit_codes import describe_error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (EngineDown("away"), "unavailable"),
        (NotStoredYet("later"), "unavailable"),
        (Unconfirmed("perhaps"), "unconfirmed"),
    ],
)
def test_what_is_not_known_has_a_name_of_its_own(error: InstaChatError, name: str) -> None:
    """With the exit code of a dependency that is away; after any other such error nothing was changed."""
    failure = describe_error(error)
    assert (failure.code, failure.name, failure.message) == (5, name, error.message)
