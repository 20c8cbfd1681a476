"""Demonstrate every feature on real conversations."""

from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Format, Output
from instachat_cli.console.output import Printer


@not_audited
def demo(output: Output = None) -> None:
    """Demonstrate every feature on real conversations, including kill -9, and print measurements.

    $ instachat demo

    It ends with a short load test over HTTP and its audit, if the extra `bench` is installed. The demo
    creates one application per language, on the configured engines or on private ones. With -o json the
    narration goes to standard error and the measurements go to standard output.
    """
    from backend.settings import load
    from instachat_cli.demo.story import run_demo
    from instachat_cli.runtime import logging_setup

    logging_setup.log_notices_to_stderr()
    as_text = output in (None, Format.TABLE)
    measured = run_demo(load(), to_stderr=not as_text)
    if not as_text:
        Printer(output).one(measured)
