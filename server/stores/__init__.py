"""Stores: what is durable. One port, the same semantics in every backend."""
