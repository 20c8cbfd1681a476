"""What became of a number of a chat: each step that its message has taken, when, and how long that took.

`tracer` asks the log, then SQL; a module for each source turns what it has into steps: `log_view` the log,
`unstored` a number without a row, `stored` a row, `search_steps` the outbox and the search index.
"""
