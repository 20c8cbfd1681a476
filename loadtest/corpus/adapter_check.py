"""Tries an adapter on its server before a load, so that a wrong key is named before it fails every request.

What the server does wrong is the audit's business: a message that is never listed or found is no error here.
"""

import time

from loadtest.adapter.operations import Operation
from loadtest.corpus.texts import Marks
from loadtest.polling import wait_until
from loadtest.web import ApiClient

PATIENCE_SECONDS = 5.0  # for a message to be listed, and to be found
NAME = "load check"


def check_adapter(client: ApiClient) -> None:
    """Create an application with a chat and a message, and read what lists there are.

    Raises Unreachable; Unusable if the server refuses a request; and UnexpectedAnswer, naming the key, if an
    answer has no value where the adapter says.
    """
    adapter = client.adapter
    marks = Marks(seed=0, as_words=adapter.finds_words)
    created = client.request_done(Operation.CREATE_APPLICATION, name=NAME)
    token = adapter.endpoint(Operation.CREATE_APPLICATION).token(created)
    try:
        answer = client.request_done(Operation.CREATE_CHAT, token=token)
        chat = adapter.endpoint(Operation.CREATE_CHAT).number(answer)
        place: dict[str, object] = {"token": token, "chat": chat}
        text = f"{NAME} {marks.mark('check', 1)}"
        answer = client.request_done(Operation.SEND, **place, text=text)
        adapter.endpoint(Operation.SEND).number(answer)
        if Operation.SEND_BATCH in adapter:
            answer = client.request_done(Operation.SEND_BATCH, **place, texts=[f"{text} 2"])
            adapter.endpoint(Operation.SEND_BATCH).number(answer)
        for operation in (Operation.LIST_CHATS, Operation.LIST, Operation.LIST_NEWEST):
            _read_items(client, operation, place)
        _read_items(client, Operation.SEARCH, {**place, "keyword": marks.keyword})
    finally:
        if Operation.DELETE_APPLICATION in adapter:
            client.request(Operation.DELETE_APPLICATION, {"token": token})


def _read_items(client: ApiClient, operation: Operation, values: dict[str, object]) -> None:
    """Read a list until it has an item, but not for ever; nothing if the server has no such list."""
    if operation not in client.adapter:
        return
    first = {"limit": 10, "after": 0, "page": 1, "offset": 0}

    def has_items() -> bool:
        answer = client.request_done(operation, **values, **first)
        return bool(client.adapter.endpoint(operation).items(answer))

    wait_until(has_items, time.monotonic() + PATIENCE_SECONDS, pause=0.05)
