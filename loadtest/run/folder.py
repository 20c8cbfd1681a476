"""A run's folder: what Locust and the process that watches it tell each other, by files and exit codes."""

PLAN = "plan.json"  # written before Locust starts
START_INFO = "start.json"  # what the workers are told, and when the run begins; there once the fixtures exist
STOP = "stop"  # a file of that name ends the run in good order
LOG = "locust.log"

UNREACHABLE, UNUSABLE = 75, 76  # exit codes: why the fixtures could not be created
