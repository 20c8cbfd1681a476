"""The times of each full block of a chat's messages, for lists between two times."""

from alembic import op

revision = "0006"
down_revision = "0005"

BLOCK_SIZE = 1024


def upgrade() -> None:
    """Record the blocks of what is stored: it reads every message once.

    The highest block of each chat is left out: it is recorded when a higher number is stored.
    """
    op.execute(
        f"""
        CREATE TABLE message_block (
            chat_id bigint,
            block bigint,
            earliest timestamptz NOT NULL,
            latest timestamptz NOT NULL,
            PRIMARY KEY (chat_id, block)
        );
        INSERT INTO message_block (chat_id, block, earliest, latest)
        SELECT chat_id, block, earliest, latest
        FROM (SELECT chat_id, number / {BLOCK_SIZE} AS block, min(created_at) AS earliest,
                     max(created_at) AS latest,
                     max(max(number)) OVER (PARTITION BY chat_id) / {BLOCK_SIZE} AS highest
              FROM message GROUP BY chat_id, number / {BLOCK_SIZE}) b
        WHERE block < highest;
        """
    )
