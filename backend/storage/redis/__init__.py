"""The log and the counters in Redis: the client, the Lua scripts, and a module for each kind of call."""
