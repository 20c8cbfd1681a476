"""One operation of a server: how it is requested, and where its answer has which value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from loadtest.adapter.answers import ApiAnswer, ListedItem, as_number, number_at, value_at
from loadtest.adapter.operations import Operation
from loadtest.adapter.templates import JsonTemplate, RawJson, TextTemplate
from loadtest.errors import UnexpectedAnswer

_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


class PreparedRequest(NamedTuple):
    """A request; the path begins after the server's address."""

    method: str
    path: str
    headers: dict[str, str]
    data: bytes | None


@dataclass(frozen=True)
class Endpoint:
    """How a server does one operation."""

    operation: Operation
    request: str  # its method and path as the adapter has them, without the base
    method: str
    path: TextTemplate
    headers: Mapping[str, TextTemplate]
    body: JsonTemplate | None
    item: JsonTemplate | None  # of a batch
    status: frozenset[int]
    """The statuses of an answer that says that it was done."""
    fields: Mapping[str, str]
    options: Mapping[str, Any]

    def prepare(self, values: Mapping[str, object]) -> PreparedRequest:
        """The request with the values of its placeholders; others are ignored.

        The texts of a batch are `texts`.
        """
        if self.item is not None:
            texts = values["texts"]
            assert isinstance(texts, list)
            items = ",".join(self.item.render({**values, "text": text}) for text in texts)
            values = {**values, "items": RawJson(f"[{items}]")}
        headers = {name: value.render(values) for name, value in self.headers.items()}
        data = None
        if self.body is not None:
            data, headers = self.body.render(values).encode(), _JSON | headers
        return PreparedRequest(self.method, self.path.render_quoted(values), headers, data)

    def number(self, answer: ApiAnswer) -> int:
        """The number that a creation was answered with, or the first one of a batch.

        Raises UnexpectedAnswer.
        """
        name = "first" if "first" in self.fields else "number"
        return number_at(answer, self.fields[name], self._key(name))

    def token(self, answer: ApiAnswer) -> str:
        """The token of an application. Raises UnexpectedAnswer."""
        return str(value_at(answer.body, self.fields["token"], self._key("token")))

    def items(self, answer: ApiAnswer) -> list[ListedItem]:
        """The messages, or the chats, of a page. Raises UnexpectedAnswer."""
        key = self._key("items")
        items = value_at(answer.body, self.fields["items"], key)
        if not isinstance(items, list):
            raise UnexpectedAnswer(
                f"{key} = {self.fields['items']!r}: the answer has no list there"
            )
        return [self.item_of(item) for item in items]

    def item_of(self, data: Any) -> ListedItem:
        """A message, or a chat, from its JSON. Raises UnexpectedAnswer."""
        path, key = self.fields["number"], self._key("number")
        number = as_number(value_at(data, path, key), path, key)
        if "text" not in self.fields:
            return ListedItem(number, "")
        return ListedItem(number, str(value_at(data, self.fields["text"], self._key("text"))))

    @property
    def says_next(self) -> bool:
        """Whether an answer says if there is another page."""
        return bool(self.fields.get("next"))

    def next(self, answer: ApiAnswer) -> Any:
        """What the next page is asked for with; None if there is none. Raises UnexpectedAnswer."""
        return value_at(answer.body, self.fields["next"], self._key("next"))

    def _key(self, name: str) -> str:
        return f"{self.operation}.{name}"
