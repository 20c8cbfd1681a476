"""Two test processes on one machine: in which order tests run, and in which process.

Tests run in two processes (pytest-xdist), each with engines of its own. pytest-randomly shuffles them by a
seed: files, and the tests within each file. The seed stands at the head of the output and, after a failure,
at its end; `make test ARGS=--randomly-seed=7` runs in that order again, with the same examples of hypothesis
and the same `random`. Which of the two processes takes a test is not the seed's affair.

One mark keeps tests together: `xdist_group("name")`. Those of one name run in one process, one after the
other, so that what they share at great cost (a server, a load that several tests look at) is made once. A
test that uses the shared node of Elasticsearch is of such a group without saying so. Groups run first, the
longest of them at the very beginning: begun late, they would leave the other process with nothing to do.

README.md in this folder has the rules for authors of tests.
"""

from typing import Final

import pytest
from hypothesis import core

_GROUP: Final = "xdist_group"
_SHARED: Final = {"elasticsearch"}  # fixtures of which there is one a run
_LONGEST: Final = ("elasticsearch", "http")


class SchedulingPlugin:
    """The pytest plugin of one process."""

    def __init__(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "faults: kills, stops or cuts off processes and engines")
        config.addinivalue_line("markers", f"{_GROUP}(name): these run in one process")
        self._is_of_several = hasattr(config, "workerinput")
        self._seed: int | None = None

    @pytest.hookimpl(trylast=True)  # pytest-randomly has chosen the seed by then
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Seed hypothesis, too, unless it was given a seed."""
        self._seed = session.config.getoption("randomly_seed", None)
        if session.config.getoption("hypothesis_seed", None) is None:
            core.global_force_seed = self._seed  # type: ignore[assignment]  # it is None to begin with

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """After a failure, say how to run in the same order again."""
        if self._seed is not None and {"failed", "error"} & terminalreporter.stats.keys():
            again = f"make test ARGS=--randomly-seed={self._seed}"
            terminalreporter.write_line(f"The same order again: {again}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort what was shuffled: groups first. Those of the same place keep their order."""
        for item in items:
            for name in _SHARED.intersection(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.xdist_group(name))
            if self._is_of_several and (group := item.get_closest_marker(_GROUP)):
                # xdist 3.8 tells its scheduler by the name, in a way that pytest 9.2 no longer heeds.
                item._id = type(item.id).parse(f"{item.nodeid}@{group.args[0]}")
        items.sort(key=_sort_key)


def _sort_key(item: pytest.Item) -> int:
    if group := item.get_closest_marker(_GROUP):
        name = group.args[0]
        return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)
    return len(_LONGEST) + 1
