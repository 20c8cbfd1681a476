"""The order of tests, and their distribution over four processes.

Tests run in four processes (pytest-xdist), each with its own engines; on two cores, because many tests
wait more than they compute. pytest-randomly shuffles the files,
and the tests within each file, by a seed. The seed is printed at the head of the output and again after a
failure; `make test ARGS=--randomly-seed=7` repeats that order, with the same examples of hypothesis and the
same `random`. The seed does not decide which process runs a test.

The mark `xdist_group("name")` keeps tests together: those of one name run in one process, one after the
other, so that expensive shared fixtures (a server, a load that several tests inspect) are created once.
Tests that use the shared node of Elasticsearch belong to such a group automatically. Groups run first, the
longest ones at the very beginning; started late, they would leave the other processes idle. A single test
that takes long has a group to itself for this reason.

README.md in this folder has the rules for authors of tests.
"""

from typing import Final

import pytest
from hypothesis import core

_GROUP: Final = "xdist_group"
_SHARED: Final = {"elasticsearch"}  # fixtures that exist once per run
_LONGEST: Final = (
    *("elasticsearch", "http", "elasticsearch outage", "readme", "bench http", "upgrade"),
    *("elasticsearch cluster", "model", "soak"),
)


class SchedulingPlugin:
    """The pytest plugin of one process."""

    def __init__(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "faults: kills, stops or cuts off processes and engines")
        config.addinivalue_line("markers", "scale(row): a row of the table that `make scale` makes")
        config.addinivalue_line("markers", f"{_GROUP}(name): these run in one process")
        self._is_of_several = hasattr(config, "workerinput")
        self._seed: int | None = None

    @pytest.hookimpl(trylast=True)  # pytest-randomly has chosen the seed by then
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Seed hypothesis as well, unless it has a seed."""
        self._seed = session.config.getoption("randomly_seed", None)
        if session.config.getoption("hypothesis_seed", None) is None:
            core.global_force_seed = self._seed  # type: ignore[assignment]  # it is None to begin with

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """After a failure, print how to repeat the order."""
        if self._seed is not None and {"failed", "error"} & terminalreporter.stats.keys():
            again = f"make test ARGS=--randomly-seed={self._seed}"
            terminalreporter.write_line(f"The same order again: {again}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Move groups to the front of the shuffled tests; the sort is stable."""
        for item in items:
            for name in _SHARED.intersection(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.xdist_group(name))
            if self._is_of_several and (group := item.get_closest_marker(_GROUP)):
                # xdist 3.8 passes the group to its scheduler in the test ID, in a way that pytest 9.2
                # ignores.
                item._id = type(item.id).parse(f"{item.nodeid}@{group.args[0]}")
        items.sort(key=_sort_key)


def _sort_key(item: pytest.Item) -> int:
    if group := item.get_closest_marker(_GROUP):
        name = group.args[0]
        return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)
    return len(_LONGEST) + 1
