"""What a run is chosen by: scenario and shape. Apart, since every start of the command line reads these."""

from enum import StrEnum


class Scenario(StrEnum):
    """What the users do: a file of Locust each."""

    MIXED = "mixed"
    INGEST = "ingest"
    SEARCH = "search"
    HOT_CHAT = "hot-chat"
    MANY_TENANTS = "many-tenants"
    BATCH = "batch"


class Profile(StrEnum):
    """How the load goes over time."""

    SMOKE = "smoke"
    LOAD = "load"
    STRESS = "stress"
    SOAK = "soak"
    SPIKE = "spike"
    BREAKPOINT = "breakpoint"
