"""Settings: their values and origins."""

from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Output
from instachat_cli.console.output import Printer
from instachat_cli.console.typer_setup import command, group

app = group(
    """
    Settings: their values and origins.

    $ instachat config show
    """
)


@command(app)
@not_audited
def show(output: Output = None) -> None:
    """List the settings with their values and the origin of each value.

    $ instachat config show

    Passwords are shown as ***. A flag overrides the environment; the environment overrides the default.
    """
    from pydantic import SecretStr

    from backend.settings import Settings, environment_variable, load, origins, redact

    settings = load()
    origin = origins(settings)

    def value(name: str) -> object:
        raw = getattr(settings, name)
        if name.endswith("_url"):
            return raw and redact(raw)
        if isinstance(raw, SecretStr):
            return "***"
        return raw if raw is None or isinstance(raw, int) else str(raw)

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
