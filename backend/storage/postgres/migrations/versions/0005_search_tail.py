"""Published messages stay in the outbox until the index shows them to searches."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """A time for published rows, and indexes by which a search finds what the index cannot know yet."""
    op.execute(
        """
        -- Set when the row's messages are written to every index; the row is deleted once a refresh that
        -- began later has ended. Older workers delete rows when they publish them, and ignore this column.
        ALTER TABLE outbox ADD COLUMN published_at timestamptz;

        -- By chat. A row is updated twice before it is deleted: with room on its page, neither update
        -- writes to the index.
        CREATE INDEX outbox_chats ON outbox USING gin (chats) WITH (gin_pending_list_limit = 256);
        ALTER TABLE outbox SET (fillfactor = 40);

        -- The messages that the index has rejected, by chat.
        CREATE INDEX dead_letter_unpublished ON dead_letter (token, chat, number)
            WHERE kind = 'publish';
        """
    )
