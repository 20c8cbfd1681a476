"""What commands run on: the backend, signals, child processes, and long-running operations."""
