"""The TFDS data set `spec_chats`: conversations that follow a spec."""
