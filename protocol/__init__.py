"""The wire: every message, frame, state and error of podium, and nothing that does I/O."""
