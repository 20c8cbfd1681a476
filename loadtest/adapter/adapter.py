"""An adapter: how one server does each operation, read from a TOML file.

The load tool knows a server by its adapter alone. `instachat.toml` beside this file is the adapter of this
project's API, and has no other standing than one that a user writes. docs/other-servers.md has the format.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from loadtest.adapter.endpoint import Endpoint
from loadtest.adapter.operations import REQUIRED, RULES, Operation, OperationRules
from loadtest.adapter.templates import JsonTemplate, TextTemplate

DEFAULT_FILE = Path(__file__).with_name("instachat.toml")
PAGING = ("after", "page", "offset")
_REQUEST = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S*)")
_MATCHES = ("substring", "words")


class InvalidAdapter(ValueError):
    """The file can't be read, or a key in it is missing, unknown or wrong; the message names the key."""


class ServerAdapter:
    """How a server does each operation; those that it can't do are missing."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        """From the data of a file. Raises InvalidAdapter."""
        self.data = dict(data)
        self.name = _typed(data, "name", str, "")
        if not self.name:
            raise InvalidAdapter("`name` is missing: what the reports call the server")
        base, headers = _typed(data, "base", str, ""), _typed(data, "headers", dict, {})
        if unknown := data.keys() - {"name", "base", "headers", *Operation}:
            raise InvalidAdapter(
                f"`{min(unknown)}` is unknown; the operations are {', '.join(Operation)}"
            )
        self._endpoints = {
            operation: _endpoint(operation, _typed(data, operation, dict, {}), base, headers)
            for operation in Operation
            if operation in data
        }
        for operation in REQUIRED:
            if operation not in self:
                raise InvalidAdapter(f"`{operation}` is missing: no run is possible without it")

    def __contains__(self, operation: Operation) -> bool:
        return operation in self._endpoints

    def endpoint(self, operation: Operation) -> Endpoint:
        """How the server does it. Raises KeyError if it can't: ask with `in` before."""
        return self._endpoints[operation]

    @property
    def missing(self) -> list[Operation]:
        """The operations that the server can't do."""
        return [operation for operation in Operation if operation not in self]

    @property
    def waits_by_reading(self) -> bool:
        """Whether reading a message by its number shows that it and all before it are stored."""
        return Operation.READ in self and bool(self._option(Operation.SEND, "in_order", False))

    @property
    def pending(self) -> frozenset[int]:
        """The statuses with which a read answers that a message is not stored yet."""
        return frozenset(self._option(Operation.READ, "pending", ()))

    @property
    def batch_size(self) -> int:
        """How many messages a request may have at most."""
        return int(self._option(Operation.SEND_BATCH, "at_most", 1))

    @property
    def has_etags(self) -> bool:
        """Whether the newest page has an ETag, and is answered with 304 if it has not changed."""
        return bool(self._option(Operation.LIST_NEWEST, "etag", False))

    @property
    def finds_words(self) -> bool:
        """Whether a search finds whole words rather than any part of a text."""
        return bool(self._option(Operation.SEARCH, "matches", "") == "words")

    @property
    def max_found(self) -> int | None:
        """How many messages a search finds at most; None without a limit."""
        return self._option(Operation.SEARCH, "at_most", 0) or None

    def _option(self, operation: Operation, name: str, missing: Any) -> Any:
        return self._endpoints[operation].options[name] if operation in self else missing


def load(path: Path) -> ServerAdapter:
    """The adapter of a file. Raises InvalidAdapter."""
    try:
        return ServerAdapter(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidAdapter(f"{path}: {error.strerror}") from None
    except ValueError as error:  # also of the TOML, and of the file's encoding
        raise InvalidAdapter(f"{path}: {error}") from None


@cache
def default_adapter() -> ServerAdapter:
    """The adapter of this project's API."""
    return load(DEFAULT_FILE)


def _endpoint(
    operation: Operation, table: Mapping[str, Any], base: str, headers: Mapping[str, Any]
) -> Endpoint:
    rules = RULES[operation]
    is_batch = operation is Operation.SEND_BATCH
    known = {"request", "headers", "body", "status", *rules.fields, *rules.options}
    if unknown := table.keys() - known - ({"item"} if is_batch else set()):
        raise InvalidAdapter(f"`{operation}.{min(unknown)}` is unknown")
    request = _typed(table, "request", str, "", operation)
    if not (found := _REQUEST.fullmatch(request)):
        raise InvalidAdapter(
            f"`{operation}.request` must be a method and a path, such as"
            f" 'GET /applications/{{token}}', not {request!r}"
        )
    own_headers = _typed(table, "headers", dict, {}, operation)
    try:
        path = TextTemplate(base + found[2])
        texts = {
            name: TextTemplate(str(value)) for name, value in {**headers, **own_headers}.items()
        }
        body, item = (
            JsonTemplate(table[name]) if name in table else None for name in ("body", "item")
        )
    except ValueError as error:
        raise InvalidAdapter(f"`{operation}` {error}") from None
    names = set(path.names).union(*(text.names for text in texts.values()))
    names |= body.names if body else set()
    _check_placeholders(operation, names, item, rules)
    fields = {
        name: _typed(table, name, str, default, operation) for name, default in rules.fields.items()
    }
    for name, value in fields.items():
        if value is None:
            raise InvalidAdapter(
                f"`{operation}.{name}` is missing: where the answer has it, such as 'data.{name}'"
            )
    options = {
        name: _typed(table, name, type(default), default, operation)
        for name, default in rules.options.items()
    }
    if (matches := options.get("matches", _MATCHES[0])) not in _MATCHES:
        raise InvalidAdapter(f"`search.matches` is {' or '.join(_MATCHES)}, not {matches!r}")
    status = _typed(table, "status", list, list(rules.status), operation)
    for key, codes in (("status", status), ("pending", options.get("pending", []))):
        if not all(isinstance(code, int) and 100 <= code < 600 for code in codes):
            raise InvalidAdapter(f"`{operation}.{key}` must be a list of statuses, such as [200]")
    return Endpoint(
        operation=operation,
        request=request,
        method=found[1],
        path=path,
        headers=texts,
        body=body,
        item=item,
        status=frozenset(status),
        fields=fields,
        options=options,
    )


def _check_placeholders(
    operation: Operation, names: set[str], item: JsonTemplate | None, rules: OperationRules
) -> None:
    """Raises InvalidAdapter for a placeholder that is unknown or missing."""
    known = rules.needed | rules.known
    if unknown := names - known:
        raise InvalidAdapter(
            f"`{operation}` has the placeholder {{{min(unknown)}}}; known here are"
            f" {', '.join(f'{{{name}}}' for name in sorted(known))}"
        )
    if missing := rules.needed - names:
        raise InvalidAdapter(f"`{operation}` lacks the placeholder {{{min(missing)}}}")
    if "items" in rules.needed and (item is None or item.names != {"text"}):
        raise InvalidAdapter(f"`{operation}.item` must be one message, with {{text}}")


def _typed(
    table: Mapping[str, Any], key: str, kind: type, default: Any, operation: str | None = None
) -> Any:
    value = table.get(key, default)
    if key in table and (not isinstance(value, kind) or (isinstance(value, bool) and kind is int)):
        words = {
            str: "a text",
            dict: "a table",
            list: "a list",
            bool: "true or false",
            int: "a number",
        }
        name = f"{operation}.{key}" if operation else key
        raise InvalidAdapter(f"`{name}` must be {words[kind]}")
    return value
