"""The demo model: a scripted OpenAI-compatible endpoint that drives the real qwen.

It applies a handful of plain rules to what the agent's own tools return. It is not a review, and
every response says so in the header `x-podium-demo: scripted`.
"""
