"""Requests as they are accepted."""

from typing import Any

import pytest

from backend.api import schemas
from backend.ingest.requests import AcceptRequest


@pytest.mark.parametrize("body_type", [schemas.MessageInput, schemas.FastMessageInput])
def test_an_idempotency_key_of_a_previous_release_is_known(body_type: Any) -> None:
    """A request that is repeated after an upgrade has the hash that it had before."""
    new_message = body_type(text="a text alone").new_message()
    request = AcceptRequest.messages("t" * 24, 1, [new_message], key="key")
    assert request.body_hash == "7c6268ca58fecab46fe827dedc04c477"
