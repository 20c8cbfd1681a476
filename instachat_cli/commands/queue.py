"""The job queue."""

from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Output
from instachat_cli.console.output import Printer, StatusView
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context

app = group(
    """
    The job queue.

    $ instachat queue show
    """
)


@command(app)
@not_audited
def show(output: Output = None) -> None:
    """Show how many jobs wait, by name, and whether the queue is paused.

    $ instachat queue show

    A job only wakes a worker. It carries no data, so losing one loses no message.
    """
    with backend_context() as core:
        waiting = core.jobs.count_by_name()
        paused, workers = core.workers.paused(), core.workers.count()
        jobs = ", ".join(f"{count:,} {name}" for name, count in waiting.items())
        Printer(output).view(
            StatusView(
                {
                    "paused": paused,
                    "workers": workers,
                    "waiting": sum(waiting.values()),
                    "jobs": waiting,
                },
                {
                    "paused": "yes, until `instachat queue resume`" if paused else "no",
                    "workers": f"{workers:,} running",
                    "waiting jobs": jobs or "none",
                },
            )
        )


@command(app)
def pause(output: Output = None) -> None:
    """Stop all workers from working until `resume`, including workers started later.

    $ instachat queue pause

    Messages are still accepted and are stored after `resume`. Work in progress is finished.
    """
    with backend_context() as core:
        core.workers.pause()
        Printer(output).outcome(
            {"paused": True},
            "paused: nothing is stored or published until `instachat queue resume`",
        )


@command(app)
def resume(output: Output = None) -> None:
    """Let the workers continue.

    $ instachat queue resume
    """
    with backend_context() as core:
        core.workers.resume()
        Printer(output).outcome({"paused": False}, "resumed: workers continue")
