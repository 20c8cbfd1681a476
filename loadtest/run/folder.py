"""The files in a run's folder, and the exit codes, by which Locust and `bench run` communicate."""

PLAN = "plan.json"  # written before Locust starts
ADAPTER = "adapter.json"  # beside it: how the server's API looks
PRELOAD = "preload.json"  # the same, if the installation has messages before the run
# What the workers receive, and when the run begins; exists once the fixtures do.
START_INFO = "start.json"
STOP = "stop"  # a file of this name asks Locust to end the run and finish requests under way
LOG = "locust.log"

UNREACHABLE, UNUSABLE = 75, 76  # exit codes that say why the fixtures could not be created
