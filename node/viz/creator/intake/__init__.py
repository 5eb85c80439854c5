"""Make a work of what a creator has: books, pages and chats become ``text`` or ``dialogue``
files."""
