"""Plants faults in the protocols, which the explorer has to find."""

import inspect
import textwrap
import threading
from collections.abc import Callable
from functools import partial
from hashlib import sha1
from typing import Any

import pytest
from sqlalchemy import bindparam, update

from backend.storage.postgres import cascade
from backend.storage.postgres.tables import application
from backend.storage.redis import script_loader
from backend.storage.redis.log import Log

Plant = Callable[[pytest.MonkeyPatch], None]


def in_method(of: type, name: str, part: str, instead: str) -> Plant:
    """A method with another text in the place of one."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        method = getattr(of, name)
        source = textwrap.dedent(inspect.getsource(method))
        assert source.count(part) == 1, f"{name} has {part!r} {source.count(part)} times"
        scope: dict[str, Any] = {}
        code = "from __future__ import annotations\n" + source.replace(part, instead)
        exec(compile(code, method.__code__.co_filename, "exec"), method.__globals__, scope)
        patch.setattr(of, name, scope[name])

    return plant


def in_script(name: str, part: str, instead: str) -> Plant:
    """A script of Redis with another text in the place of one."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        source = script_loader.SCRIPTS[name]
        assert source.count(part) == 1, f"{name} has {part!r} {source.count(part)} times"
        broken = source.replace(part, instead)
        patch.setitem(script_loader.SCRIPTS, name, broken)
        patch.setitem(script_loader.SHAS, name, sha1(broken.encode()).hexdigest())

    return plant


def after_the_commit(name: str, of: type, transaction: str) -> Plant:
    """A call of the log that is made behind a transaction, which is a method, instead of in it."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        call, run = getattr(Log, name), getattr(of, transaction)
        late = threading.local()

        def postpone(self: Log, *arguments: object) -> object:
            if not hasattr(late, "calls"):
                return call(self, *arguments)
            late.calls.append(partial(call, self, *arguments))
            return None

        def run_first(self: object, *arguments: object) -> object:
            late.calls = []
            result = run(self, *arguments)
            calls = late.calls
            del late.calls
            for each in calls:
                each()
            return result

        patch.setattr(Log, name, postpone)
        patch.setattr(of, transaction, run_first)

    return plant


def finish_cascades_beside_others(patch: pytest.MonkeyPatch) -> None:
    """A cascade takes the chats that another process has locked for deleted."""
    of_id = application.c.id == bindparam("of_id")
    patch.setattr(
        cascade, "FINISH_APPLICATION", update(application).where(of_id).values(rows_left=False)
    )
