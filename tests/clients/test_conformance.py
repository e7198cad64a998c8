"""Every client of ours gets on with a server that misbehaves, in the same way."""

import pytest

from tests.clients.runners import CLIENT_JS, RUNNER_JS, ProcessRunner, PythonRunner
from tests.clients.scenarios import SCENARIOS
from tests.clients.script import Scenario
from tests.clients.stage import plays


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_the_python_client(scenario: Scenario) -> None:
    await plays(PythonRunner(), scenario)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_client_js(scenario: Scenario, node: str) -> None:
    await plays(ProcessRunner([node, str(RUNNER_JS), str(CLIENT_JS)]), scenario)
