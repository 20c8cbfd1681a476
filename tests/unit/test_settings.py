"""Settings whose values have a syntax of their own."""

import pytest

from backend.domain.errors import Invalid
from backend.settings import load


@pytest.mark.parametrize(
    ("value", "seconds", "share"),
    [
        ("10m/20%", 600, 0.2),
        ("90s", 90, 0.2),
        ("2h/5%", 7200, 0.05),
        ("1m/100%", 60, 1),
        ("0", 0, 0.2),
    ],
)
def test_the_retention_of_the_log_is_an_age_and_a_share(
    value: str, seconds: float, share: float
) -> None:
    assert load(log_retention=value).parsed_log_retention == (seconds, share)


@pytest.mark.parametrize("value", ["10", "m", "-1m", "10m/0%", "10m/101%", "10m/20", "10 m", "1d"])
def test_another_form_is_refused_by_its_variable(value: str) -> None:
    with pytest.raises(Invalid, match="INSTACHAT_LOG_RETENTION"):
        load(log_retention=value)
