"""The group `instachat bench`."""

from instachat_cli.commands.bench.ceilings import ceilings
from instachat_cli.commands.bench.compare import compare
from instachat_cli.commands.bench.growth import growth
from instachat_cli.commands.bench.history import history
from instachat_cli.commands.bench.run import run
from instachat_cli.console.typer_setup import command, group

app = group(
    """
    Load tests with an audit, and benchmarks against baselines.

    $ instachat bench run mixed --profile load
    $ instachat bench compare before.json after.json
    $ instachat bench history build/results
    $ instachat bench ceilings
    $ instachat bench growth
    """
)
command(app)(run)
command(app)(compare)
command(app)(history)
command(app)(ceilings)
command(app)(growth)
