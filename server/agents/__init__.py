"""Agents: the pinned tree, the qwen process, its output and its end."""
