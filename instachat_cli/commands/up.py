"""Run everything: engines, migrations, the HTTP API."""

from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Host, Port, UntilInputEnds


@not_audited
def up(host: Host = None, port: Port = None, until_input_ends: UntilInputEnds = False) -> None:
    """Run everything: engines, migrations, the HTTP API, a worker.

    $ instachat up
    $ instachat up --port 8080

    Where no URL is set, `up` starts a private PostgreSQL or Valkey. The first Ctrl-C stores all accepted
    messages and exits. A second one exits immediately; accepted messages are then stored at the next start.
    """
    from backend.settings import load
    from instachat_cli.runtime import logging_setup
    from instachat_cli.runtime.signals import terminate_on_stdin_end
    from instachat_cli.runtime.supervisor import run

    if until_input_ends:
        terminate_on_stdin_end()
    logging_setup.log_with_timestamps()
    run(load(host=host, port=port))
