"""Several applications on one database, one broker and one Redis."""
