"""Who may come in, who is here now, and what is written down about it."""
