"""Reasons to trust the figures of a run less."""

from loadtest.report.result import LoadModel, Result
from loadtest.run.plan import Plan

BUSY_SHARE = 0.9  # of a processor: one generator process that uses as much limits the load
FULL_SHARE = 0.95  # of all processors
# Of the arrivals that were due; below that the p99 is not the p99 of the planned load.
MIN_HELD_SHARE = 0.99
DISTURBED_SHARE = 0.1  # of all processors, used by other programs; `bench run` itself uses less


def warnings_of(result: Result, plan: Plan) -> list[str]:
    """A sentence for each reason; empty if there is none."""
    cpu, warnings = result.cpu, []
    if cpu.busiest >= BUSY_SHARE:
        warnings.append(
            f"the generator was the limit: one of its processes used {cpu.busiest:.0%} of a processor;"
            " more --processes, or workers on other machines, would send more"
        )
    others = cpu.machine - cpu.generator - (cpu.servers or 0)
    if cpu.machine >= FULL_SHARE * cpu.processors:
        others_name = "others" if cpu.servers is not None else "others, perhaps the servers"
        warnings.append(
            f"all {cpu.processors} processors of this machine were busy: the generator used"
            f" {cpu.generator:.1f} of them, {others_name} {others:.1f}; on a machine of their own the"
            " servers would do more"
        )
    elif cpu.servers is not None and others >= DISTURBED_SHARE * cpu.processors:
        warnings.append(
            f"others used {others:.1f} of the {cpu.processors} processors during the run, which the"
            " servers could not use"
        )
    if plan.model is LoadModel.OPEN and not plan.is_breakpoint and not result.interrupted:
        held = [stage for stage in plan.stages if stage.measured]
        seconds = sum(stage.seconds for stage in held)
        wanted = sum(stage.arrivals(stage.seconds) for stage in held) / seconds
        fewest = plan.fewest_arrivals(wanted, seconds) / seconds
        if result.total.rate < MIN_HELD_SHARE * fewest:
            warnings.append(
                f"{result.total.rate:,.0f} of {wanted:,.0f} arrivals a second were served: the rate was"
                " not held, and each latency counts from the time at which its request was due"
            )
    if not result.total.count:
        warnings.append("nothing was measured: the run ended before its measured window began")
    return warnings
