"""What `bench run` prints while the load runs."""

from loadtest.report.result import LoadModel
from loadtest.report.words import arrivals_text
from loadtest.run.plan import Plan
from loadtest.run.statistics import Statistics

PROGRESS_SECONDS = 5  # between two lines of progress


def describe_load(plan: Plan) -> str:
    """The model and the highest level, in words."""
    arrivals = arrivals_text(plan.spacing)
    if plan.is_breakpoint:
        return f"open model, from {plan.stages[0].begin:g} {arrivals} a second upwards"
    if plan.model is LoadModel.OPEN:
        return f"open model, {plan.highest:g} {arrivals} a second at the highest"
    return f"closed model, {plan.users:,} users at the highest, each waiting for its answers"


def progress_line(plan: Plan, statistics: Statistics, now: float) -> str:
    """The figures of the last few seconds; `now` is in seconds since the run began."""
    recent = statistics.recent(PROGRESS_SECONDS)
    p99 = "-" if recent.p99_ms is None else f"{recent.p99_ms:.1f} ms"
    level = f"{plan.level(now):,.0f} " + ("/s" if plan.model is LoadModel.OPEN else "users")
    return (
        f"{now:4.0f} s  {level:>10}  {recent.rate:8,.0f}/s  p99 {p99:>9}  {recent.failures} failed"
    )
