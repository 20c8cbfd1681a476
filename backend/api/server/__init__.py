"""The HTTP server: its processes, its connections, the fast path, group commit, group read, and logs.

Nothing here knows the routes or the application: `backend.api.serve` puts them together.
"""
