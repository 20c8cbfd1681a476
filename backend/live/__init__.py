"""Following chats: what becomes of each number, as soon as it is decided."""
