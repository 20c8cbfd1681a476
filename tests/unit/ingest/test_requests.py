"""Requests as they are accepted."""

import hashlib
import json
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


@pytest.mark.parametrize("texts", [["a"], ["a", "\u00e9 \U0001f600", '"']])
def test_the_hash_of_many_messages_is_that_of_their_list(texts: list[str]) -> None:
    """It is made a message at a time."""
    request = AcceptRequest.messages("t" * 24, 1, texts, key="key")
    whole = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    assert request.body_hash == whole[:32]
