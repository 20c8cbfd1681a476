"""Two test processes on one machine: in which order tests run, in which process, and which runs alone.

Tests run in two processes (pytest-xdist), each with engines of its own. pytest-randomly shuffles them by a
seed: files, and the tests within each file. The seed stands at the head of the output and, after a failure,
at its end; `make test ARGS=--randomly-seed=7` runs in that order again, with the same examples of hypothesis
and the same `random`. Two marks keep some tests together:

- `alone`: nothing else runs meanwhile. These run last.
- `xdist_group("name")`: those of one name run in one process, one after the other, so that what they share
  at great cost (a load that several tests look at) is made once. A test that uses the shared node of
  Elasticsearch is of such a group without saying so. Groups run first, the longest of them at the very
  beginning.

README.md in this folder has the rules for authors of tests.
"""

import fcntl
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from hypothesis import core

ALONE: Final = "alone"
_GROUP: Final = "xdist_group"
_SHARED: Final = {"elasticsearch"}  # fixtures of which there is one a run
_LONGEST: Final = (
    "elasticsearch",
    "http",
)  # groups; the other process would wait for one begun late


class SchedulingPlugin:
    """The pytest plugin of one process."""

    def __init__(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "faults: kills, stops or cuts off processes and engines")
        config.addinivalue_line("markers", f"{ALONE}: no other test runs meanwhile")
        config.addinivalue_line("markers", f"{_GROUP}(name): these run in one process")
        self._folder: Path | None = None
        self._seed: int | None = None

    @pytest.hookimpl(trylast=True)  # pytest-randomly has chosen the seed by then
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Seed hypothesis, and find the folder that the processes share, if this is one of several."""
        self._seed = session.config.getoption("randomly_seed", None)
        if session.config.getoption("hypothesis_seed", None) is None:
            core.global_force_seed = self._seed  # type: ignore[assignment]  # it is None to begin with
        if hasattr(session.config, "workerinput"):
            factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
            self._folder = factory.getbasetemp().parent

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """After a failure, say how to run in the same order again."""
        if self._seed is not None and {"failed", "error"} & terminalreporter.stats.keys():
            again = f"make test ARGS=--randomly-seed={self._seed}"
            terminalreporter.write_line(f"The same order again: {again}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort what was shuffled: groups come first, since a long one must not begin last.

        Sorting keeps the shuffled order of tests that have the same place.
        """
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
        return len(_LONGEST) + 2
    if group := item.get_closest_marker(_GROUP):
        name = group.args[0]
        return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)
    return len(_LONGEST) + 1


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
