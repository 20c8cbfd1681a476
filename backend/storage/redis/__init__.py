"""The log and the counters in Redis: the client, the Lua scripts, and one module for each kind of call."""
