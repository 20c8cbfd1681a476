"""Two test processes on one machine: which test goes where, and which has the machine to itself.

Tests run in two processes (pytest-xdist), each with engines of its own, so a test never meets another one's
data. Two marks say what a test needs beyond that:

- `alone`: nothing else runs meanwhile. For tests of how long something takes.
- `xdist_group("name")`: those of one name run in one process, one after the other, so that what they share
  at great cost (a load that several tests look at) is made once. Whoever uses the shared node of
  Elasticsearch is of such a group without saying so.
"""

import fcntl
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

ALONE: Final = "alone"
_GROUP: Final = "xdist_group"
_SHARED: Final = {"elasticsearch"}  # fixtures of which there is one a run


class SchedulingPlugin:
    """The pytest plugin of one process."""

    def __init__(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "faults: kills, stops or cuts off processes and engines")
        config.addinivalue_line("markers", f"{ALONE}: no other test runs meanwhile")
        config.addinivalue_line("markers", f"{_GROUP}(name): these run in one process")
        self._folder: Path | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Find the folder that the processes share, if this is one of several."""
        if hasattr(session.config, "workerinput"):
            factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
            self._folder = factory.getbasetemp().parent

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Groups come first, since a long one must not begin last; at the end what runs alone."""
        for item in items:
            if item.get_closest_marker(ALONE):
                item.add_marker(pytest.mark.xdist_group(ALONE))
            for name in _SHARED.intersection(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.xdist_group(name))
            if self._folder and (group := item.get_closest_marker(_GROUP)):
                # xdist 3.8 tells its scheduler by the name, in a way that pytest 9.2 no longer heeds.
                item._id = type(item.id).parse(f"{item.nodeid}@{group.args[0]}")
        items.sort(key=_sort_key)

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the time-out: waiting does not count
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        with ExitStack() as stack:
            if self._folder:
                stack.enter_context(
                    _machine_lock(self._folder, item.get_closest_marker(ALONE) is not None)
                )
            return (yield)


def _sort_key(item: pytest.Item) -> int:
    if item.get_closest_marker(ALONE):
        return 2
    return 0 if item.get_closest_marker(_GROUP) else 1


@contextmanager
def _machine_lock(folder: Path, alone: bool) -> Generator[None]:
    """The machine, shared or alone. All pass a gate: who waits to be alone is not overtaken for ever."""
    with (folder / "machine").open("w") as machine:
        with (folder / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(machine, fcntl.LOCK_UN)  # also for a child that has inherited it
