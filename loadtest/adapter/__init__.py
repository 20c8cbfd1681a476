"""What a server's API looks like: the only place of the load tool that knows paths and JSON fields."""
