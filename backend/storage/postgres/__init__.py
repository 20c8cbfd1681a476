"""PostgreSQL: the connection, its errors in our words, and every statement that the program sends.

Statements are named constants, so that a test can read the plan of each hot one; the functions around
them give and take plain values. Transactions belong to the callers: a stage's unit of work is one
`with database.begin() as tx:`.

What the rows promise:
- a number that was stored keeps its row until its parent is gone (state stored, removed, dead, lost);
- `shard.epoch` is the authority over lives of Redis, `shard.cursor_*` over what has been drained;
- database ids stay inside this package.

The statements of the way of a message are to be had from here; those of one stage alone from the stage's
module.
"""

from backend.storage.postgres.catalogue import ChatRow as ChatRow
from backend.storage.postgres.catalogue import MessageRow as MessageRow
from backend.storage.postgres.catalogue import RowValues as RowValues
from backend.storage.postgres.catalogue import StoredChat as StoredChat
from backend.storage.postgres.catalogue import StoredMessage as StoredMessage
from backend.storage.postgres.catalogue import application_ids as application_ids
from backend.storage.postgres.catalogue import chat_ids as chat_ids
from backend.storage.postgres.catalogue import copy_messages as copy_messages
from backend.storage.postgres.catalogue import count_indexed as count_indexed
from backend.storage.postgres.catalogue import count_removed as count_removed
from backend.storage.postgres.catalogue import dead_numbers as dead_numbers
from backend.storage.postgres.catalogue import edit_message as edit_message
from backend.storage.postgres.catalogue import filter_candidates as filter_candidates
from backend.storage.postgres.catalogue import get_application as get_application
from backend.storage.postgres.catalogue import get_chat as get_chat
from backend.storage.postgres.catalogue import get_message as get_message
from backend.storage.postgres.catalogue import get_parent_state as get_parent_state
from backend.storage.postgres.catalogue import insert_application as insert_application
from backend.storage.postgres.catalogue import insert_chats as insert_chats
from backend.storage.postgres.catalogue import insert_message as insert_message
from backend.storage.postgres.catalogue import list_applications as list_applications
from backend.storage.postgres.catalogue import list_chats as list_chats
from backend.storage.postgres.catalogue import list_messages as list_messages
from backend.storage.postgres.catalogue import message_times as message_times
from backend.storage.postgres.catalogue import remove_message as remove_message
from backend.storage.postgres.catalogue import rename_application as rename_application
from backend.storage.postgres.catalogue import search_messages as search_messages
from backend.storage.postgres.catalogue import to_application as to_application
from backend.storage.postgres.catalogue import to_chat as to_chat
from backend.storage.postgres.catalogue import tombstone_application as tombstone_application
from backend.storage.postgres.catalogue import tombstone_chat as tombstone_chat
from backend.storage.postgres.copy import COPY_LINES_PER_READ as COPY_LINES_PER_READ
from backend.storage.postgres.copy import micros as micros
from backend.storage.postgres.database import HOT as HOT
from backend.storage.postgres.database import PAGE as PAGE
from backend.storage.postgres.database import SCHEMA as SCHEMA
from backend.storage.postgres.database import Database as Database
from backend.storage.postgres.database import dialect_url as dialect_url
from backend.storage.postgres.database import sqlstate as sqlstate
from backend.storage.postgres.dead_letters import DeadLetter as DeadLetter
from backend.storage.postgres.dead_letters import add_dead_letters as add_dead_letters
from backend.storage.postgres.dead_letters import count_dead_letters as count_dead_letters
from backend.storage.postgres.outbox import add_to_outbox as add_to_outbox
from backend.storage.postgres.outbox import is_publishing as is_publishing
from backend.storage.postgres.shards import LockedShard as LockedShard
from backend.storage.postgres.shards import advance_cursor as advance_cursor
from backend.storage.postgres.shards import count_stored as count_stored
from backend.storage.postgres.shards import lock_shard as lock_shard
from backend.storage.postgres.shards import name_transaction as name_transaction
from backend.storage.postgres.shards import set_epoch as set_epoch
from backend.storage.postgres.shards import shard_state as shard_state
from backend.storage.postgres.shards import shard_states as shard_states
from backend.storage.postgres.shards import (
    terminate_stuck_transactions as terminate_stuck_transactions,
)
from backend.storage.postgres.transfer import EXPORTED_APPLICATIONS as EXPORTED_APPLICATIONS
from backend.storage.postgres.transfer import EXPORTED_CHATS as EXPORTED_CHATS
from backend.storage.postgres.transfer import EXPORTED_MESSAGES as EXPORTED_MESSAGES
from backend.storage.postgres.transfer import UNIQUE_VIOLATION as UNIQUE_VIOLATION
from backend.storage.postgres.transfer import ImportedApplication as ImportedApplication
from backend.storage.postgres.transfer import ImportedChat as ImportedChat
from backend.storage.postgres.transfer import ImportedMessage as ImportedMessage
from backend.storage.postgres.transfer import StoredRecord as StoredRecord
from backend.storage.postgres.transfer import copy_imported_messages as copy_imported_messages
from backend.storage.postgres.transfer import count_exported as count_exported
from backend.storage.postgres.transfer import find_stored_messages as find_stored_messages
from backend.storage.postgres.transfer import find_stored_parents as find_stored_parents
from backend.storage.postgres.transfer import (
    insert_imported_applications as insert_imported_applications,
)
from backend.storage.postgres.transfer import insert_imported_chats as insert_imported_chats
from backend.storage.postgres.transfer import stream_rows as stream_rows
