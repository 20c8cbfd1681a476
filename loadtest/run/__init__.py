"""One run of the load: its plan, its processes and its measurements."""
