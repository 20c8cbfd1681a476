"""A plugin of pytest for `make scale`: selects the tests of some rows, and has each report its row."""

import os
from typing import Final

import pytest

from tests.support.faults.scale_table import MARK, ROW, is_named

ONLY_VARIABLE: Final = "INSTACHAT_SCALE_ONLY"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Record the row among the properties of the test, and deselect the tests of other rows."""
    only = os.environ.get(ONLY_VARIABLE, "")
    chosen = []
    for item in items:
        mark = item.get_closest_marker(MARK)
        if mark and is_named(mark.args[0], only):
            item.user_properties.append((ROW, mark.args[0]))
            chosen.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
