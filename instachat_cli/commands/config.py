"""`instachat config`: the settings, and where each came from."""

from instachat_cli.console.options import Output
from instachat_cli.console.output import Printer
from instachat_cli.console.typer_setup import command, group

app = group(
    """
    Settings: their values, and where each came from.

    $ instachat config show
    """
)


@command(app)
def show(output: Output = None) -> None:
    """List the settings with their values, and where each value came from.

    $ instachat config show

    Passwords are replaced by ***. A flag wins over the environment, that over the default.
    """
    from pydantic import SecretStr

    from backend.settings import Settings, environment_variable, load, origins, redact

    settings = load()
    origin = origins(settings)

    def value(name: str) -> object:
        found = getattr(settings, name)
        if name.endswith("_url"):
            return found and redact(found)
        if isinstance(found, SecretStr):
            return "***"
        return found if found is None or isinstance(found, int) else str(found)

    rows = (
        {
            "setting": environment_variable(name),
            "value": value(name),
            "origin": origin[name],
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    )
    Printer(output).many(rows, ["setting", "origin", "value"])
