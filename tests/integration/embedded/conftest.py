"""Fixtures of the tests of private engines: homes, and another user."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.private_engines import (
    NobodyAccount,
    acquired,
    eventually,
    new_folder,
    stopped,
)


@pytest.fixture
def tmp_folder() -> Iterator[Path]:
    """A new folder that every user can traverse; at the end no process that was started for it is left."""
    with new_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def shared_home() -> Iterator[Path]:
    """One home for most tests, because creating its data takes longer than the tests do."""
    with new_folder() as folder:
        with acquired(folder / "home"):
            pass
        yield folder / "home"


@pytest.fixture
def home(shared_home: Path) -> Iterator[Path]:
    """The shared home. No process of it runs, neither before the test nor after it."""
    yield shared_home
    assert eventually(lambda: stopped(shared_home))


@pytest.fixture
def nobody(tmp_folder: Path) -> NobodyAccount:
    """The user `nobody`, who can run Python."""
    return NobodyAccount(tmp_folder)
