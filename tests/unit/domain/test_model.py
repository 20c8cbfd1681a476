"""The checks of what a client writes."""

import pytest

from backend.domain.errors import Invalid
from backend.domain.model import CONTENT_CHECKS
from tests.support.message_fields import INVALID_FIELDS, LONGEST_FIELDS, TEXT_ALONE


@pytest.mark.parametrize("field", CONTENT_CHECKS)
def test_the_check_of_a_field_names_it(field: str) -> None:
    """A client that wrote several fields learns which one is invalid.

    Valid are the longest value, and null where a message may lack the field.
    """
    check = CONTENT_CHECKS[field]
    for valid in (LONGEST_FIELDS[field], TEXT_ALONE[field]):
        assert check(valid) == valid
    for value in INVALID_FIELDS[field]:
        if isinstance(value, str):
            with pytest.raises(Invalid, match=rf"\b{field}\b"):
                check(value)
