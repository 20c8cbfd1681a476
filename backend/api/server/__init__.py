"""The HTTP server: its processes, its connections, the fast path for POST …/messages, group commit, and logs.

Nothing here knows the routes or the application: `backend.api.serve` puts them together.
"""
