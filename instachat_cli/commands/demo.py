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
    from instachat_cli.demo.demo import tell

    logs.as_talk()
    told = output in (None, Format.TABLE)
    measured = tell(load(), aside=not told)
    if not told:
        Printer(output).one(measured)
