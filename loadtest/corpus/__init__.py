"""The content of the load: real conversations, keywords, and the applications and chats of a run."""
