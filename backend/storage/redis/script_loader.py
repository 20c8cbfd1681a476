"""The Lua scripts, each with the code that all of them share."""

import hashlib
from importlib.resources import files

_NAMES = (
    "accept",
    "ack_synced",
    "append_event",
    "count_hit",
    "discard_counters",
    "inspect_counters",
    "probe_epoch",
    "raise_counters",
    "read_counters",
    "read_issued",
    "read_log",
    "reopen_counter",
    "set_closed",
    "set_epoch",
    "trim_log",
    "verify_counter",
)


def _load_scripts() -> dict[str, str]:
    folder = files("backend.storage.redis") / "scripts"
    shared = (folder / "shared.lua").read_text(encoding="utf-8")
    return {
        name: _with_shared_code(shared, (folder / f"{name}.lua").read_text(encoding="utf-8"))
        for name in _NAMES
    }


def _with_shared_code(shared: str, script: str) -> str:
    """The shared code and the script, behind the script's flags: Redis wants those in the first line."""
    flags, newline, rest = script.partition("\n") if script.startswith("#!") else ("", "", script)
    return flags + newline + _without_comments(shared + rest)


def _without_comments(script: str) -> str:
    """The script with an empty line for each comment: Redis keeps the text of each script in its memory."""
    return "\n".join("" if line.startswith("--") else line for line in script.split("\n"))


SCRIPTS = _load_scripts()
SHAS = {name: hashlib.sha1(script.encode()).hexdigest() for name, script in SCRIPTS.items()}
"""The name that Redis gives each script when it loads it."""
