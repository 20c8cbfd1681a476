"""The settings with which Redis keeps the promised durability."""

from typing import NamedTuple

from backend.settings import Durability, Settings
from backend.storage.redis.log import Log

STRICT_REDIS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
FAST_REDIS = {**STRICT_REDIS, "appendfsync": "everysec"}


class WrongSetting(NamedTuple):
    """A setting of Redis that breaks the promised durability."""

    name: str
    value: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name} is {self.value}, not {self.wanted}"


def find_wrong_settings(settings: Settings, log: Log) -> list[WrongSetting] | None:
    """The settings of Redis that break the promised durability; None if Redis denies reading them.

    Raises EngineDown.
    """
    wanted = STRICT_REDIS if settings.durability is Durability.STRICT else FAST_REDIS
    found = log.configuration(*wanted)
    if found is None:
        return None
    return [
        WrongSetting(name, found[name], value)
        for name, value in wanted.items()
        if found.get(name, value) != value
        and not (name == "appendfsync" and found[name] == "always")  # more than `fast` asks for
    ]
