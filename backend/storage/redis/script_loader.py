"""The scripts that alone may change the log and the counters, as Redis is given them."""

import hashlib
from importlib.resources import files


def _load_scripts() -> dict[str, str]:
    folder = files("backend.storage.redis") / "scripts"
    shared = (folder / "epoch.lua").read_text(encoding="utf-8")
    names = [
        "accept",
        "read",
        "trim",
        "set_epoch",
        "probe",
        "verify",
        "reopen",
        "read_issued",
        "raise",
        "set_closed",
        "inspect",
        "discard",
        "read_counters",
        "ack_synced",
    ]
    return {
        name: _with_shared_code(shared, (folder / f"{name}.lua").read_text(encoding="utf-8"))
        for name in names
    }


def _with_shared_code(shared: str, script: str) -> str:
    """A script with what all share in front, but for its flags: Redis wants those in the first line."""
    flags, newline, rest = script.partition("\n") if script.startswith("#!") else ("", "", script)
    return flags + newline + shared + rest


SCRIPTS = _load_scripts()
SHAS = {name: hashlib.sha1(script.encode()).hexdigest() for name, script in SCRIPTS.items()}
"""What Redis calls each of them, once it was told of it."""
