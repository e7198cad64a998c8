"""What the tests of clients share."""

import pytest

from server.agents.installation import find_node


@pytest.fixture(scope="session")
def node() -> str:
    return str(find_node().program)
