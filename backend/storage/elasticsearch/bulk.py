"""The bodies of bulk requests."""

from collections.abc import Iterable, Iterator

import msgspec

from backend.storage.search_index import Document

MAX_BULK_DOCUMENTS = 2_500  # per bulk
MAX_BULK_BYTES = 4 << 20  # per bulk, unless a single document is larger
# A template, because building a mapping for each document and serializing it takes twice as long.
_LINES = (
    b'{"index":{"_id":"%d-%d","routing":"%d","version":%d,"version_type":"external"}}\n'
    b'{"chat":%d,"number":%d%b}\n'
)
_encode_json = msgspec.json.Encoder().encode


def bulk_requests(documents: Iterable[Document]) -> Iterator[tuple[list[Document], bytes]]:
    """Split documents, in order, into bulks; yield each bulk with its request body."""
    batch: list[Document] = []
    lines: list[bytes] = []
    size = 0
    for document in documents:
        line = _bulk_lines(document)
        if batch and (len(batch) == MAX_BULK_DOCUMENTS or size + len(line) > MAX_BULK_BYTES):
            yield batch, b"".join(lines)
            batch, lines, size = [], [], 0
        batch.append(document)
        lines.append(line)
        size += len(line)
    if batch:
        yield batch, b"".join(lines)


def bulk_body(documents: Iterable[Document]) -> bytes:
    """The body of one bulk request that writes all of these documents."""
    return b"".join(map(_bulk_lines, documents))


def _bulk_lines(document: Document) -> bytes:
    """The two lines of a bulk request that write a document."""
    chat, number, version, text = document
    content = b"" if text is None else b',"text":' + _encode_json(text)
    return _LINES % (chat, number, chat, version, chat, number, content)
