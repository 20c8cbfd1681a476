"""Reads applications, chats and messages with live counts, and changes them."""
