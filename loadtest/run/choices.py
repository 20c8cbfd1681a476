"""The scenarios and profiles that a user can choose.

They have a module of their own because every start of the command line imports it: it must stay light.
"""

from enum import StrEnum


class Scenario(StrEnum):
    """What the users do. Each scenario is a Locust file."""

    MIXED = "mixed"
    INGEST = "ingest"
    SEARCH = "search"
    HOT_CHAT = "hot-chat"
    MANY_TENANTS = "many-tenants"
    BATCH = "batch"
    READ_HEAVY = "read-heavy"
    FOLLOWERS = "followers"


class Profile(StrEnum):
    """How the load changes over time."""

    SMOKE = "smoke"
    LOAD = "load"
    STRESS = "stress"
    SOAK = "soak"
    SPIKE = "spike"
    BREAKPOINT = "breakpoint"
