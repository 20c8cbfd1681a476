"""What a search engine has to offer: the `SearchIndex` protocol and the values it takes and returns.

`elasticsearch/` implements it. Another engine is another package beside that one, and one line in
`bootstrap.py`; nothing else imports an implementation.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias

from backend.domain.errors import Unavailable
from backend.domain.model import MessageKey

DocumentVersion = tuple[int, int, int]
"""Chat id, number and version of a document."""


class Document(NamedTuple):
    """What an index stores for a message. `text` is folded; it is None once the message is removed."""

    chat_id: int
    number: int
    version: int
    text: str | None


class DocumentState(NamedTuple):
    """A document without its text. `alive` is False for a document of a removed message."""

    chat_id: int
    number: int
    version: int
    alive: bool


PlainState: TypeAlias = tuple[int, int, int, bool]
"""The fields of a DocumentState. Millions of plain tuples cost the garbage collector less."""

ReadStates: TypeAlias = Callable[
    [MessageKey, MessageKey | None, int], tuple[list[PlainState], bool]
]
"""Reads up to so many states behind one key, through another or to the end, in order of the keys.

The flag says whether there may be more in that range.
"""


class RejectedDocument(NamedTuple):
    """A document that the index cannot store, and the reason, which never quotes the text."""

    document: Document
    reason: str


class IndexCopies(NamedTuple):
    """How an index is spread over the engine's nodes."""

    shards: int
    replicas: int
    """Copies that each shard has besides its primary one, if there are nodes for them."""
    missing: int
    """Copies that are not there, primary ones included."""
    searchable: bool
    """Whether every shard has a copy that answers."""


class IndexUnusable(Unavailable):
    """The search engine answers, but an index that SQL registers can't be used as it is.

    The caller does without the index: searches read PostgreSQL, and changes stay in the outbox.
    """


class IndexMissing(IndexUnusable):
    """The search engine does not have the index `name`, although SQL registers it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the search index {name} is not in Elasticsearch", "run `instachat reindex`"
        )
        self.name = name


class IndexClosed(IndexUnusable):
    """The index `name` exists, and somebody has closed it: it neither takes nor shows a document."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the search index {name} is closed",
            f"open it (POST /{name}/_open), which publishes what has changed meanwhile",
        )


class WritesElsewhere(IndexUnusable):
    """What is written to the index `name` reaches another index, or several."""

    def __init__(self, name: str, reached: str) -> None:
        super().__init__(
            f"the alias by which the search index {name} is written names {reached}",
            "run `instachat reindex`, which builds another index; searches are complete meanwhile",
        )


class SearchIndex(Protocol):
    """The search indices of one search engine. Implementations are thread-safe.

    A document's version is the version of its row. An index never replaces a document by an older version.

    Every method that calls the engine raises EngineDown when the engine does not answer or denies access,
    and Unavailable when it cannot do the work at the moment.
    """

    url: str

    @property
    def host_urls(self) -> Sequence[str]:
        """The URLs of the engine's hosts, without users and passwords."""

    @property
    def mapping_version(self) -> int:
        """The version of the mapping that `create` uses; indices of another version have to be rebuilt."""

    @property
    def max_gram_length(self) -> int:
        """Keywords of up to this many code points are matched exactly by `candidates`."""

    def close(self) -> None:
        """Close the connections."""

    def version(self) -> str | None:
        """The engine's version, the lowest of all nodes; None if the user may not read it."""

    def silent_hosts(self) -> dict[str, str]:
        """The URLs of the hosts that do not answer, each with the reason.

        Raises EngineDown only for settings that can't be used.
        """

    def new_name(self, installation: str) -> str:
        """A new, unused index name for an installation."""

    def installation_alias(self, installation: str) -> str:
        """The alias that names an installation's live index."""

    # -- indices -----------------------------------------------------------------------------------

    def create(self, name: str) -> None:
        """Create an index that can be written to; an existing index stays unchanged."""

    def drop(self, name: str) -> None:
        """Delete an index with its aliases, if it exists."""

    def set_read_alias(self, name: str) -> None:
        """Make the installation's alias name this index and no other, atomically. Idempotent."""

    def check_usable(self, name: str) -> None:
        """Raise the IndexUnusable that says why an index can't be read, or writes don't reach it."""

    def aliased_indices(self, alias: str) -> Sequence[str]:
        """The indices that an installation's alias names; searches do not use it, other programs may."""

    def list_indices(self, alias: str) -> dict[str, bool]:
        """An installation's existing indices, registered or not; the value says whether writes reach it."""

    def configuration_differences(self, name: str) -> list[str]:
        """The paths at which an index differs from what `create` makes, such as `mappings.properties.text`.

        Settings that do not affect search results (replicas, refresh interval) are not compared.
        Raises IndexUnusable.
        """

    def wanted_copies(self) -> tuple[int, int | None]:
        """The shards, and the replicas of each, that `create` makes; None: the engine chooses."""

    def copies(self, name: str) -> IndexCopies | None:
        """How an index is spread; None if the user may not read it. Raises IndexUnusable."""

    # -- documents ---------------------------------------------------------------------------------

    def write(self, name: str, documents: Iterable[Document]) -> list[RejectedDocument]:
        """Store these documents, unless the index has newer versions; returns those it cannot store.

        The result does not depend on order or repetition. Raises IndexUnusable, or Unavailable if the engine
        accepts no more at the moment; some of the documents may be stored then. An index that can't be used
        rejects no document.
        """

    def refresh(self, name: str) -> None:
        """Make everything written so far visible to every search of an index.

        Raises IndexUnusable, and Unavailable if a copy of the index could not be refreshed.
        """

    # -- searching ---------------------------------------------------------------------------------

    def candidates(self, name: str, chat_id: int, keyword: str, after: int, size: int) -> list[int]:
        """Up to `size` numbers above `after`, ascending, of a chat's documents that may contain a keyword.

        The keyword is folded. No document that contains it is left out. Raises IndexUnusable.
        """

    def candidates_in_chats(
        self, name: str, chat_ids: Sequence[int], keyword: str, size: int
    ) -> list[MessageKey]:
        """Up to `size` keys of documents of these chats, at most 65,536, that may contain a keyword.

        As `candidates`, in no order that means anything.
        """

    def count_documents(self, name: str, chat_id: int, first: int, last: int) -> int:
        """How many of a chat's numbers `first` to `last` have a searchable document, tombstones included.

        Raises IndexUnusable.
        """

    # -- comparing ---------------------------------------------------------------------------------

    def point_in_time(
        self, name: str, chat_ids: Sequence[int] | None = None
    ) -> AbstractContextManager[ReadStates]:
        """A function that reads the states of an index's documents, or of some chats' documents, by pages.

        All pages show one point in time, which includes everything written before the call. The function may
        be called by several threads. Raises IndexUnusable.
        """

    def read_versions(
        self, name: str, after: MessageKey, last: MessageKey | None, size: int
    ) -> tuple[list[DocumentVersion], bool]:
        """Up to `size` versions behind the key `after`, through `last` or to the end, in order of the keys.

        The flag says whether there may be more in that range. Includes everything written before the last
        refresh. Raises IndexUnusable.
        """

    def read_states(self, name: str, keys: Sequence[MessageKey]) -> dict[MessageKey, DocumentState]:
        """The current states of those of these keys that have a document."""
