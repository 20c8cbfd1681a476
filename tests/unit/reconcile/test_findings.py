"""The kinds of findings are complete, and have the names of the contract."""

from typing import get_args

from backend.reconcile.findings import Check, FindingKind, new_finding, rule_of
from backend.reconcile.repair import Repair


def test_the_kinds_are_those_of_the_contract() -> None:
    """Users' scripts read these names."""
    assert {str(kind) for kind in FindingKind} == {
        *("missing_row", "ghost_document", "stale_document", "missing_document"),
        *("counter_behind", "counter_ahead", "count_differs", "orphan", "gap_unexplained"),
        "duplicate_number",
    }


def test_every_check_and_every_repair_belongs_to_a_kind() -> None:
    """No check or repair is left over once a kind is removed."""
    rules = [rule_of(kind) for kind in FindingKind]
    assert {check for rule in rules for check in rule.checks} == set(Check)
    assert {repair for rule in rules for repair in rule.repairs} == set(get_args(Repair))
    assert all(rule.checks for rule in rules)


def test_a_kind_has_a_remedy_exactly_if_it_has_a_repair() -> None:
    """`--repair --dry-run` prints what would be done for each finding that can be repaired."""
    for kind in FindingKind:
        rule = rule_of(kind)
        assert bool(rule.repairs) == (rule.remedy is not None)
        assert new_finding(kind, "detail").repairable == bool(rule.repairs)
        assert not new_finding(kind, "detail", may_repair=False).repairable
