"""Pinned copies of projects: made without a write to the project, kept, and looked at again."""
