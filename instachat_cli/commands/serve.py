"""Serve the HTTP API until stopped."""

import logging
from typing import Annotated

import typer

from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Host, Port, UntilInputEnds

Processes = Annotated[int, typer.Option(min=1, max=64, help="Number of server processes.")]


@not_audited
def serve(
    host: Host = None,
    port: Port = None,
    workers: Processes = 1,
    until_input_ends: UntilInputEnds = False,
) -> None:
    """Serve the HTTP API until stopped.

    $ instachat serve
    $ instachat serve --host 0.0.0.0 --port 8080

    A worker stores what the API accepts: run `instachat worker`, or `instachat up` for both. On SIGTERM or
    Ctrl-C the server finishes open requests and exits with 0.
    """
    from instachat_cli.runtime.signals import exit_on_signals, terminate_on_stdin_end

    exit_on_signals()
    if until_input_ends:
        terminate_on_stdin_end()

    from backend.api import serve as http_server
    from backend.api.server import logs
    from backend.bootstrap import open_backend
    from backend.monitoring.repeated_checks import RepeatedChecks
    from backend.settings import load

    settings = load(host=host, port=port)
    logs.configure()
    log = logging.getLogger(__name__)
    with open_backend(settings) as core:  # fails here, rather than in each server process
        core.log.refuse_cluster_node()
        core.log.refuse_old_servers()
        core.epochs.recognition.refuse_wrong()
        checks = [core.database.check_schema, *([core.engines.ensure] if core.engines else [])]
        http_server.serve(settings, workers, RepeatedChecks(*checks))
    log.info("server ended")
