"""`instachat bench`: load with an audit, and ratios against ceilings and rivals."""

from instachat_cli.bench.run import run
from instachat_cli.tree import command, group

app = group(
    """
    Load, audit, report.

    $ instachat bench run
    $ instachat bench run ingest --profile breakpoint --max-p99 50ms
    """
)
command(app)(run)
