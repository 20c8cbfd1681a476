"""`instachat serve`: the HTTP API alone."""

from typing import Annotated

import typer

from instachat_cli.options import UntilInputEnds

Host = Annotated[str | None, typer.Option(metavar="HOST", help="Listen there.")]
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Listen on this port.")]
Processes = Annotated[int, typer.Option(min=1, max=64, help="Server processes on that port.")]


def serve(
    host: Host = None,
    port: Port = None,
    workers: Processes = 1,
    until_input_ends: UntilInputEnds = False,
) -> None:
    """Serve the HTTP API, until told to stop.

    $ instachat serve
    $ instachat serve --host 0.0.0.0 --port 8080

    What it accepts is stored by a worker: `instachat worker`, or `instachat up` for both. SIGTERM or Ctrl-C
    finishes what is under way and ends with 0.
    """
    from instachat_cli.ending import end_at_once, end_with_input

    end_at_once()
    if until_input_ends:
        end_with_input()

    from backend.api import server
    from backend.bootstrap import open_backend
    from backend.settings import load
    from instachat_cli import logs

    log = logs.as_diary()
    settings = load(host=host, port=port)
    with open_backend(settings):  # tells what is wrong before it begins; holds private engines
        log.info("listening on http://%s:%d", settings.host, settings.port)
        server.serve(settings.host, settings.port, workers)
    log.info("server ended")
