"""Play the scenarios for a client of your own: `python -m tests.clients COMMAND…`.

COMMAND is an application around your client. It reads one JSON action a line, does it, and answers
`{"did": true}`; what it hears it writes as events. `docs/write-a-client.md` says what the actions
and the events are. `runner.mjs` is one, for Node 22 or newer and a client like client.js:

    python -m tests.clients node tests/clients/runner.mjs "$PWD/server/web/client.js"
"""

import asyncio
import sys

from tests.clients.runners import ProcessRunner
from tests.clients.scenarios import SCENARIOS
from tests.clients.stage import Failed, Unusable, plays


async def main(command: list[str]) -> int:
    failed = 0
    for scenario in SCENARIOS:
        try:
            await plays(ProcessRunner(command), scenario)
        except Unusable as error:
            sys.exit(f"{error}\n  → `python -m tests.clients --help` says what COMMAND is")
        except Failed as error:
            failed += 1
            print(f"FAILED  {scenario.name}: {error}")
        else:
            print(f"ok      {scenario.name}")
    print(f"{len(SCENARIOS) - failed} of {len(SCENARIOS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit()
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(sys.argv[1:])))
