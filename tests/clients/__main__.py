"""Play the scenarios for a client of your own: `python -m tests.clients COMMAND…`.

COMMAND is an application around your client. It reads one JSON action a line, does it, and answers
`{"did": true}`; what it hears it writes as events. `runner.mjs` is one, and
`docs/write-a-client.md` says what the actions and the events are.
"""

import asyncio
import sys

from tests.clients.runners import ProcessRunner
from tests.clients.scenarios import SCENARIOS
from tests.clients.stage import Failed, plays


async def main(command: list[str]) -> int:
    failed = 0
    for scenario in SCENARIOS:
        try:
            await plays(ProcessRunner(command), scenario)
        except Failed as error:
            failed += 1
            print(f"FAILED  {scenario.name}: {error}")
        else:
            print(f"ok      {scenario.name}")
    print(f"{len(SCENARIOS) - failed} of {len(SCENARIOS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(sys.argv[1:])))
