"""The check of the settings' names, for `doctor`: a misspelt variable would be ignored without a word."""

from collections.abc import Mapping
from difflib import get_close_matches

from backend.monitoring.checks import CheckResult, Severity, ok_result
from backend.settings import PREFIX, Settings, environment_variable

_CHECK = "settings"
_OTHER_VARIABLES = {PREFIX + "TOKEN", PREFIX + "DEBUG"}  # of the command line alone
_TESTS = (PREFIX + "TEST_", PREFIX + "TESTS_")


def check_variables(environment: Mapping[str, str]) -> CheckResult:
    """A warning if a variable has the prefix of the settings and is none; the values are valid."""
    settings = list(map(environment_variable, Settings.model_fields))
    known = {*settings, *_OTHER_VARIABLES}
    unknown = [
        name
        for name, value in sorted(environment.items())
        if value and name.upper().startswith(PREFIX) and name.upper() not in known
    ]
    unknown = [name for name in unknown if not name.upper().startswith(_TESTS)]
    if not unknown:
        return ok_result(_CHECK, "all values are valid")
    remedies = []
    for name in unknown:
        nearest = get_close_matches(name.upper(), settings, n=1)
        remedies.append(
            f"write {nearest[0]} instead of {name}" if nearest else f"remove the variable {name}"
        )
    return CheckResult(
        _CHECK,
        Severity.WARNING,
        f"no such setting, so the variable is ignored: {', '.join(unknown)}",
        f"{'; '.join(remedies)}; `instachat config show` lists the settings",
    )
