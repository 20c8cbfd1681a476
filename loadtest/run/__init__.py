"""One run of the load: the plan, the processes, the measurements."""
