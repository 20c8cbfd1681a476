"""`instachat up` and `instachat worker`: what runs until it is told to stop."""

from instachat_cli.console.options import Host, Port, UntilInputEnds


def up(host: Host = None, port: Port = None, until_input_ends: UntilInputEnds = False) -> None:
    """Run everything: engines, migrations, the HTTP API, a worker.

    $ instachat up
    $ instachat up --port 8080

    PostgreSQL and Valkey are private ones where no URL is set. The first Ctrl-C stores what is accepted
    and ends; a second one ends at once, and what is accepted is stored next time.
    """
    from backend.settings import load
    from instachat_cli.console import logs
    from instachat_cli.runtime.signals import terminate_on_stdin_end
    from instachat_cli.runtime.supervisor import run

    if until_input_ends:
        terminate_on_stdin_end()
    logs.log_with_timestamps()
    run(load(host=host, port=port))


def worker(until_input_ends: UntilInputEnds = False) -> None:
    """Store what is accepted, until told to stop.

    $ instachat worker

    Several may run, on several machines. SIGTERM or Ctrl-C finishes what is under way and ends with 0.
    """
    from instachat_cli.runtime.signals import exit_on_signals, terminate_on_stdin_end

    exit_on_signals()
    if until_input_ends:
        terminate_on_stdin_end()

    from backend.bootstrap import open_backend
    from backend.settings import load
    from instachat_cli.console import logs

    log = logs.log_with_timestamps()
    with open_backend(load()) as core:
        log.info("worker running")
        core.worker().run()
    log.info("worker ended")
