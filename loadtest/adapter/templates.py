"""Requests with placeholders such as `{token}`: a path, a header, or a JSON body."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_HOLE = re.compile(r'"\\u0000(\w+)\\u0000"')


class RawJson(str):
    """JSON that a body contains as it is."""

    __slots__ = ()


class TextTemplate:
    """A path or a header. Raises ValueError if its braces are no placeholders."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = frozenset[str](_PLACEHOLDER.findall(text))
        if re.search("[{}]", _PLACEHOLDER.sub("", text)) or "" in self.names:
            raise ValueError(f"has braces that are no placeholder, such as {{token}}: {text!r}")

    def render(self, values: Mapping[str, object]) -> str:
        """The text with the values, as they are."""
        return self.text.format_map(values)

    def render_quoted(self, values: Mapping[str, object]) -> str:
        """The text with the values, percent-encoded."""
        return self.text.format_map(
            {name: quote(str(values[name]), safe="") for name in self.names}
        )


class JsonTemplate:
    """A JSON body. A placeholder is a whole value in it: `"{text}"`. Raises ValueError if it is not."""

    def __init__(self, data: Any) -> None:
        self.names: set[str] = set()
        text = json.dumps(self._marked(data), ensure_ascii=True)
        self._parts = _HOLE.split(text)
        """Texts and names in turn; the first and the last are texts."""

    def render(self, values: Mapping[str, object]) -> str:
        """The JSON with the values."""
        parts = list(self._parts)
        for place in range(1, len(parts), 2):
            value = values[parts[place]]
            is_json = isinstance(value, RawJson)
            parts[place] = str(value) if is_json else json.dumps(value, ensure_ascii=False)
        return "".join(parts)

    def _marked(self, data: Any) -> Any:
        """The data with each placeholder as a string that no file can contain."""
        match data:
            case dict():
                return {name: self._marked(value) for name, value in data.items()}
            case list():
                return [self._marked(value) for value in data]
            case str() if found := _PLACEHOLDER.fullmatch(data):
                self.names.add(found[1])
                return f"\0{found[1]}\0"
            case str() if "\0" in data or _PLACEHOLDER.search(data):
                raise ValueError(
                    f"{data!r}: in a body a placeholder is a whole value, as in {{text}}"
                )
        return data
