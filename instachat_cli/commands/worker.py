"""Store accepted messages until stopped."""

from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import UntilInputEnds


@not_audited
def worker(until_input_ends: UntilInputEnds = False) -> None:
    """Store accepted messages until stopped.

    $ instachat worker

    You can run several workers, on several machines. On SIGTERM or Ctrl-C a worker finishes its current
    batch and exits with 0.
    """
    from instachat_cli.runtime.signals import exit_on_signals, terminate_on_stdin_end

    exit_on_signals()
    if until_input_ends:
        terminate_on_stdin_end()

    from backend.bootstrap import open_backend
    from backend.settings import load
    from instachat_cli.runtime import logging_setup

    log = logging_setup.log_with_timestamps()
    with open_backend(load()) as core:
        core.make_all()
        core.epochs.recognition.refuse_wrong()
        log.info("worker running")
        core.worker().run()
    log.info("worker ended")
