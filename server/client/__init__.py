"""A client of podium, as the command line uses it: REST for questions, the socket for runs."""

from server.client.rest import Client
from server.client.states import Unreachable

__all__ = ["Client", "Unreachable"]
