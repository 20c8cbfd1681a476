"""`instachat demo`: the whole story, for whoever sees the program for the first time."""

from instachat_cli.console.options import Format, Output
from instachat_cli.console.output import Printer


def demo(output: Output = None) -> None:
    """Tell the whole story on real conversations, kill -9 included; end with what was measured.

    $ instachat demo

    A short load over HTTP comes last, and its audit. It creates applications of its own, one a language,
    on the engines that are set, or on private ones. With -o json the story goes to standard error, and
    what was measured to standard output.
    """
    from backend.settings import load
    from instachat_cli.console import logs
    from instachat_cli.demo.demo import run_demo

    logs.log_notices_to_stderr()
    as_text = output in (None, Format.TABLE)
    measured = run_demo(load(), to_stderr=not as_text)
    if not as_text:
        Printer(output).one(measured)
