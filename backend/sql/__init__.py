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

from backend.sql.catalogue import ChatRow as ChatRow
from backend.sql.catalogue import MessageRow as MessageRow
from backend.sql.catalogue import RowValues as RowValues
from backend.sql.catalogue import StoredChat as StoredChat
from backend.sql.catalogue import StoredMessage as StoredMessage
from backend.sql.catalogue import application as application
from backend.sql.catalogue import application_ids as application_ids
from backend.sql.catalogue import applications as applications
from backend.sql.catalogue import bury_application as bury_application
from backend.sql.catalogue import bury_chat as bury_chat
from backend.sql.catalogue import chat as chat
from backend.sql.catalogue import chat_ids as chat_ids
from backend.sql.catalogue import chats as chats
from backend.sql.catalogue import confirm as confirm
from backend.sql.catalogue import copy_messages as copy_messages
from backend.sql.catalogue import count_published as count_published
from backend.sql.catalogue import count_removed as count_removed
from backend.sql.catalogue import dead_numbers as dead_numbers
from backend.sql.catalogue import edit_message as edit_message
from backend.sql.catalogue import insert_application as insert_application
from backend.sql.catalogue import insert_chats as insert_chats
from backend.sql.catalogue import insert_message as insert_message
from backend.sql.catalogue import message as message
from backend.sql.catalogue import message_times as message_times
from backend.sql.catalogue import messages as messages
from backend.sql.catalogue import remove_message as remove_message
from backend.sql.catalogue import rename_application as rename_application
from backend.sql.catalogue import search as search
from backend.sql.catalogue import standing as standing
from backend.sql.catalogue import to_application as to_application
from backend.sql.catalogue import to_chat as to_chat
from backend.sql.copying import LINES_AT_ONCE as LINES_AT_ONCE
from backend.sql.copying import micros as micros
from backend.sql.database import HOT as HOT
from backend.sql.database import PAGE as PAGE
from backend.sql.database import SCHEMA as SCHEMA
from backend.sql.database import Database as Database
from backend.sql.database import dialect_url as dialect_url
from backend.sql.database import sqlstate as sqlstate
from backend.sql.letters import DeadLetter as DeadLetter
from backend.sql.letters import add_dead_letters as add_dead_letters
from backend.sql.letters import count_dead_letters as count_dead_letters
from backend.sql.outbox import add_to_outbox as add_to_outbox
from backend.sql.outbox import publishing as publishing
from backend.sql.shards import LockedShard as LockedShard
from backend.sql.shards import advance as advance
from backend.sql.shards import count_stored as count_stored
from backend.sql.shards import end_stuck as end_stuck
from backend.sql.shards import lock_shard as lock_shard
from backend.sql.shards import name_transaction as name_transaction
from backend.sql.shards import set_epoch as set_epoch
from backend.sql.shards import shard_state as shard_state
from backend.sql.shards import shard_states as shard_states
from backend.sql.transfer import EXPORTED_APPLICATIONS as EXPORTED_APPLICATIONS
from backend.sql.transfer import EXPORTED_CHATS as EXPORTED_CHATS
from backend.sql.transfer import EXPORTED_MESSAGES as EXPORTED_MESSAGES
from backend.sql.transfer import TAKEN as TAKEN
from backend.sql.transfer import AsStored as AsStored
from backend.sql.transfer import ImportedApplication as ImportedApplication
from backend.sql.transfer import ImportedChat as ImportedChat
from backend.sql.transfer import ImportedMessage as ImportedMessage
from backend.sql.transfer import copy_imported_messages as copy_imported_messages
from backend.sql.transfer import count_exported as count_exported
from backend.sql.transfer import insert_imported_applications as insert_imported_applications
from backend.sql.transfer import insert_imported_chats as insert_imported_chats
from backend.sql.transfer import messages_as_stored as messages_as_stored
from backend.sql.transfer import parents_as_stored as parents_as_stored
from backend.sql.transfer import stream as stream
