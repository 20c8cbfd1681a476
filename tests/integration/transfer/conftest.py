"""Fixtures of the tests of export and import."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from backend.bootstrap import Backend
from tests.conftest import Engines
from tests.support.transfer import (
    STORED_LINES,
    application_body,
    chat_body,
    export,
    fill_installation,
    import_lines,
    isolated_installation,
    message_body,
)


class SampleExport(NamedTuple):
    """An export of an installation that `fill_installation` has filled, and its main application."""

    token: str
    data: bytes


@pytest.fixture(scope="module")
def sample(engines: Engines) -> Iterator[SampleExport]:
    """An export that has a case of each kind."""
    with isolated_installation(engines) as backend:
        token = fill_installation(backend)
        yield SampleExport(token, export(backend))


@pytest.fixture(scope="module")
def stored_lines_backend(engines: Engines) -> Iterator[Backend]:
    """A backend that holds STORED_LINES, for tests that change nothing; with a Redis of its own."""
    with isolated_installation(engines) as backend:
        assert import_lines(backend, STORED_LINES)[1] == []
        export(backend)  # from here on each shard has an epoch
        yield backend


@pytest.fixture
def one_message(backend: Backend) -> Backend:
    """A backend that holds an imported application, its chat 1, and that chat's message 1."""
    _, faults = import_lines(backend, [application_body(), chat_body(), message_body()])
    assert faults == []
    return backend
