"""What the load says: real conversations, keywords, and the applications and chats it uses."""
