"""The explorer: one block of two columns, in a page on this machine."""
