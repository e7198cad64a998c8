"""`podium serve` whose agents are fakes that say much, for tests that signal a whole process:
`python -m tests.fakes.talking_server DIR PROJECT TEXTS`. A stop waits for who stalls until the test
lets go of it."""

import asyncio
import sys
from pathlib import Path
from unittest.mock import patch

from server import app
from server.channel import websocket
from server.serve import serve
from server.settings import EndpointSettings, Settings
from tests.server.harness import TOKEN
from tests.server.readers import Talker


def main(data: str, project: str, texts: str) -> int:
    endpoint = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m")
    settings = Settings(data=data, port=0, token=TOKEN, endpoints={"default": endpoint})
    agent = Talker(int(texts))
    websocket.DRAIN_SECONDS = 12.0
    with patch.object(app, "agent_of", lambda settings, clock: agent):
        return asyncio.run(serve(settings, projects=[str(Path(project))], with_parent=False))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
