"""A plugin of pytest: each test that has the mark `scale` reports the row that it belongs to."""

import pytest

from tests.support.faults.scale_table import MARK, ROW


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Record the row among the properties of the test."""
    for item in items:
        if mark := item.get_closest_marker(MARK):
            item.user_properties.append((ROW, mark.args[0]))
