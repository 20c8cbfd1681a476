"""A run's folder: what Locust and the process that watches it tell each other, by files and exit codes."""

PLAN = "plan.json"  # written before Locust starts
NEWS = (
    "news.json"  # what the workers are told, and when the run begins; there once the ground is made
)
STOP = "stop"  # a file of that name ends the run in good order
LOG = "locust.log"

UNREACHABLE, UNUSABLE = 75, 76  # exit codes: why the ground could not be made
