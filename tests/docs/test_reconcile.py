"""docs/reconcile.md describes exactly the existing kinds of findings."""

import re

from backend.reconcile.findings import FindingKind, rule_of
from tests.docs.test_readme import ROOT

PAGE = (ROOT / "docs" / "reconcile.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \|(?:[^|]+\|){2} ([^|]+) \|$", re.MULTILINE)


def test_the_table_of_the_page_has_every_kind_once() -> None:
    """A new kind needs a row, and a removed kind must have none."""
    kinds = [kind for kind, _ in ROW.findall(PAGE)]
    assert sorted(kinds) == sorted(FindingKind)


def test_the_page_says_which_kinds_have_no_repair() -> None:
    """The repair in their row begins with “Nothing”."""
    repairs = dict(ROW.findall(PAGE))
    assert {kind for kind in FindingKind if repairs[kind].startswith("Nothing")} == {
        kind for kind in FindingKind if not rule_of(kind).repairs
    }
