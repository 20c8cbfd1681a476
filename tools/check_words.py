"""Finds words that the project has retired. `make check` runs it; it exits 1 and names each place.

The glossary in docs/architecture.md defines the words that replace them. A word is listed once there is a
standard term for it, so that no private vocabulary grows again.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SUFFIXES: Final = {
    ".css",
    ".go",
    ".html",
    ".js",
    ".lua",
    ".md",
    ".py",
    ".service",
    ".timer",
    ".toml",
    ".yaml",
    ".yml",
}
EXCLUDED: Final = (
    "tools/check_words.py",
    "docs/performance.md",  # made by `make bench`: profiles name functions of that commit
    "docs/growth.md",
    "backend/storage/postgres/migrations/versions/",  # names of columns that exist
)

RETIRED: Final = {
    r"\b[Ll]ife\b|\bLives\b|\bLife(?:Calls|Lost)\b|\blives of\b|_lives\b": "epoch, heartbeat",
    r"\bclaim(?:s|ed|ing)?\b(?= (?:a|the|an) (?:life|epoch))": "begin an epoch",
    r"\b[Ss]ettl(?:e|es|ed|er|ing)\b": "wait_drained, wait_published, barrier",
    r"\bOvertaken\b": "WriteConflict",
    r"\bpast[_ ](?:the[_ ])?log\b": "direct write",
    r"\bunder_flag\b": "with_publish_lock",
    r"\b[Ss]trays?\b": "orphan",
    r"\bmend(?:s|ed|er|ing|able)?\b": "repair",
    r"\bholes?\b": "gap",
    r"\b(?:bury|buries|buried)\b|\bbury_": "dead_letter_… or tombstone_…",
    r"\b[Uu]nsynced\b(?!_counters)": "dirty",
    r"\bbells?\b(?!\\)|\bring(?:s|ing)?_|\bdoorbell\b": "wake-up, notify",
    r"\b(?:Press|Builder|Patient|Keeper|Site|Rehearsal|Lane|Usual|Diary)\b(?=[(:.\]]| \|)": "the glossary",
    r"\bfast lane\b": "fast path",
    r"\b_(?:fly|landed)\b": "_dispatch, _complete",
    r"\bin[_ ]our[_ ]words\b": "translate_errors",
    r"\btroubles?\b": "errors",
    r"\bcatalogues?\b": "catalog",
    r"\b(?:MOST|OLDEST)_[A-Z]+\b": "MAX_…, MIN_…",
    r"\b[A-Z_]+_WITHIN\b": "…_TIMEOUT_SECONDS",
    r"\b[Ww]hoever\b|\b[Ww]homever\b": "name the actor: the caller, the worker, the client, the operator",
}
"""Retired words, as regular expressions, and what to write."""

ALLOWED: Final = {("backend/storage/postgres/", "mended")}  # a column has that name
"""Folders in which a retired word may stay."""


def main() -> int:
    """Print each place that uses a retired word; returns the exit code."""
    patterns = [(re.compile(pattern), say) for pattern, say in RETIRED.items()]
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    found = 0
    for name in tracked:
        if (
            Path(name).suffix not in SUFFIXES
            or name.startswith(EXCLUDED)
            or not (ROOT / name).is_file()
        ):
            continue
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            for pattern, say in patterns:
                match = pattern.search(line)
                if match and not any(name.startswith(f) and match[0] == w for f, w in ALLOWED):
                    found += 1
                    print(f"{name}:{number}: “{match[0]}” is retired; say: {say}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
