"""Runs: launching them, conducting their steps, sharing the endpoint's slots."""
