"""What stands around an agent's process: namespaces, limits, and an end that leaves nobody."""
