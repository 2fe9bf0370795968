"""Documents and chats about a spec, as records."""
