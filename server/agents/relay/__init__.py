"""The one way from an agent to a model: each request is judged, each answer is measured."""
