"""The workflow can be read, and none of its jobs passes because it looked at nothing."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).resolve().parents[2]


def workflow() -> dict[str, Any]:
    """The workflow; YAML 1.1 takes its key `on` for a boolean."""
    loaded = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    return {"on" if key is True else key: value for key, value in loaded.items()}


def test_the_workflow_follows_its_schema() -> None:
    """The one of SchemaStore, which check-jsonschema ships. One that does not is not run at all."""
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "github-workflows.json"
    problems = Draft7Validator(json.loads(schema.read_text())).iter_errors(workflow())
    assert not [problem.message for problem in problems]


def test_a_dependency_that_cannot_be_looked_up_fails_the_audit() -> None:
    """pip-audit skips it otherwise, says that nothing was found, and exits with 0."""
    commands = [step.get("run", "") for step in workflow()["jobs"]["audit"]["steps"]]
    (audit,) = (command.split() for command in commands if "pip_audit" in command)
    assert "--strict" in audit
    assert {f"requirements/{name}.txt" for name in ("engines", "build")} <= set(audit)
