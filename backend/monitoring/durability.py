"""The settings with which Redis keeps the promised durability."""

from collections.abc import Sequence
from typing import NamedTuple

from backend.settings import Durability, Settings
from backend.storage.redis.log import Log
from backend.storage.redis.nodes import NodeReport

STRICT_REDIS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
FAST_REDIS = {**STRICT_REDIS, "appendfsync": "everysec"}
ASK_SECONDS = 0.5  # that `read_wrong_settings` waits for the nodes of a cluster


class WrongSetting(NamedTuple):
    """A setting of a node of Redis that breaks the promised durability."""

    name: str
    value: str
    wanted: str
    node: str
    """Empty for a single server."""

    def __str__(self) -> str:
        on_node = f" on {self.node}" if self.node else ""
        return f"{self.name} is {self.value}, not {self.wanted}{on_node}"


def find_wrong_settings(settings: Settings, reports: Sequence[NodeReport]) -> list[WrongSetting]:
    """The settings that break the promised durability, of the nodes that tell theirs."""
    wanted = STRICT_REDIS if settings.durability is Durability.STRICT else FAST_REDIS
    return [
        WrongSetting(name, report.settings[name], value, report.name)
        for report in reports
        if report.settings is not None
        for name, value in wanted.items()
        if report.settings.get(name, value) != value
        # More than `fast` asks for.
        and not (name == "appendfsync" and report.settings[name] == "always")
    ]


def read_wrong_settings(settings: Settings, log: Log) -> list[WrongSetting]:
    """`find_wrong_settings` of the nodes that answer at once. Raises EngineDown if none does."""
    return find_wrong_settings(settings, log.node_reports(tuple(STRICT_REDIS), ASK_SECONDS))


def format_node(report: NodeReport) -> str:
    """How a message names a node."""
    return report.name or "Redis"
