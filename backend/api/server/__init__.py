"""The HTTP server: connections, the fast path of accepting, group commit, and the processes that serve."""
