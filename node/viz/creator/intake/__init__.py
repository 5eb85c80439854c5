"""Convert a creator's books, pages and chats into ``text`` or ``dialogue`` files of a work."""
