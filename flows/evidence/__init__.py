"""The rules that every agent's answer has to pass. Each is a pure function of its own."""
