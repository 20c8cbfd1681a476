"""PostgreSQL: the connection, its errors as the program's own, and every statement that the program sends.

A module a noun: `applications`, `chats`, `messages`, `shards`, `outbox` and so on. Statements are named
constants, so that a test can read the plan of each hot one; the functions around them take and return plain
values. Transactions belong to the callers: a stage's unit of work is one `with database.begin() as tx:`.

What the rows guarantee:
- A number that was stored keeps its row until its parent is gone (state stored, removed, dead or lost).
- `shard.epoch` is the authority over the epochs of Redis, `shard.cursor_*` over what has been drained.
- Database ids stay inside the backend.
"""
