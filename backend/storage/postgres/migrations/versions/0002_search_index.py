"""The search indices that are kept, and an outbox of columns, which can be counted without being read."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table of indices; the outbox, empty until there is one, gets its columns."""
    op.execute(
        """
        -- Each is written to as long as it is here. live: what searches read. building: filled by a
        -- reindex. previous: what was live before it. made_at: when Elasticsearch made it; until then
        -- whoever needs it first has it made. copied_*: how far a reindex has come, by (chat, number).
        CREATE TABLE search_index (
            name text COLLATE "C" PRIMARY KEY,
            state text NOT NULL CHECK (state IN ('building', 'live', 'previous')),
            mapping smallint NOT NULL,
            copied_chat bigint NOT NULL DEFAULT 0,
            copied_number bigint NOT NULL DEFAULT 0,
            made_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (state) DEFERRABLE -- at the end of a statement: two may change places
        );

        -- The messages that one transaction changed, column by column, with their versions.
        DROP TABLE outbox;
        CREATE TABLE outbox (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            created_at timestamptz NOT NULL DEFAULT now(),
            leased_until timestamptz,
            size bigint GENERATED ALWAYS AS (cardinality(numbers)) STORED,
            chats bigint[] NOT NULL,
            numbers bigint[] NOT NULL,
            versions bigint[] NOT NULL
        );
        """
    )
