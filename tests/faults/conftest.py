"""Fixtures of the tests of faults."""

import pytest

from backend.bootstrap import Backend
from backend.ingest import accept


@pytest.fixture
def chat(backend: Backend, application: str) -> str:
    """The token of an application whose chat 1 is stored."""
    backend.acceptor.accept(accept.chats(application))
    backend.drainer.drain_all()
    return application
