"""The channel: one WebSocket per user, fed from the hub and the log."""
