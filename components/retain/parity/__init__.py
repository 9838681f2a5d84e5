"""Does a server read chats as the model it serves was trained and gated?"""
