"""What a database's schema consists of, so that a test can tell what a migration has changed.

A change is additive if programs that know only the schema before it can use the one after it: it adds tables,
indexes, and columns that these programs need not write.
"""

from collections.abc import Set
from typing import NamedTuple

from sqlalchemy import Connection, text

# Each query: the table or type, a description, and whether it may be added to a table that is in use.
_TABLES = """
    SELECT relname, 'table ' || coalesce(pg_get_partkeydef(oid), ''), true
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')"""
_COLUMNS = """
    SELECT relname, concat_ws(' ', 'column', attname, format_type(atttypid, atttypmod), attcollation,
                              attnotnull, attidentity, attgenerated, pg_get_expr(adbin, adrelid)),
           attgenerated = '' AND (NOT attnotnull OR adbin IS NOT NULL)
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
        AND attnum > 0 AND NOT attisdropped"""
_CONSTRAINTS = """
    SELECT conrelid::regclass::text, 'constraint ' || conname || ' ' || pg_get_constraintdef(oid), false
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"""
_INDEXES = """
    SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid), NOT indisunique
    FROM pg_index JOIN pg_class ON oid = indrelid WHERE relnamespace = 'public'::regnamespace"""
_TRIGGERS = """
    SELECT tgrelid::regclass::text, pg_get_triggerdef(oid), false FROM pg_trigger WHERE NOT tgisinternal"""
_TYPES = """
    SELECT typname, 'type ' || string_agg(enumlabel, ', ' ORDER BY enumsortorder), true
    FROM pg_enum JOIN pg_type t ON t.oid = enumtypid
    WHERE typnamespace = 'public'::regnamespace GROUP BY typname"""


class Fact(NamedTuple):
    """One table, column, constraint, index, trigger or type."""

    owner: str
    """The table or type that it belongs to."""
    description: str
    may_be_added: bool
    """Whether older programs can use a table to which this is added."""


def read_facts(connection: Connection) -> set[Fact]:
    """All facts of the schema `public`."""
    queries = (_TABLES, _COLUMNS, _CONSTRAINTS, _INDEXES, _TRIGGERS, _TYPES)
    return {Fact(*row) for query in queries for row in connection.execute(text(query))}


def not_additive(before: Set[Fact], after: Set[Fact]) -> list[str]:
    """What makes a change one that older programs can't work with; empty if it only adds."""
    known = {fact.owner for fact in before}
    taken = [f"takes away: {fact.owner}: {fact.description}" for fact in before - after]
    restricted = [
        f"restricts: {fact.owner}: {fact.description}"
        for fact in after - before
        if fact.owner in known and not fact.may_be_added
    ]
    return sorted(taken + restricted)
