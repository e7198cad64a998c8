"""The ports of the server: what its rooms promise one another.

The runner, the channel and the routes know only these; `app.py` joins them with the stores, hubs
and agents that keep the promises. Import them from here.
"""

from server.ports.agents import (
    AgentFailure,
    AgentFrame,
    AgentOrder,
    AgentResult,
    AgentRunner,
    AgentUnavailable,
    AttemptCancelled,
    AttemptLimits,
    Emit,
    ModelEndpoint,
    Probe,
)
from server.ports.hub import (
    Batch,
    Hub,
)
from server.ports.store import (
    AttemptRecord,
    AttemptRef,
    Fenced,
    KeyConflict,
    Launched,
    LogEntry,
    LogHead,
    NewRun,
    NotStored,
    Page,
    RunRecord,
    StepChange,
    Store,
    StoreError,
    StoreUnavailable,
)
from server.ports.trees import (
    Trees,
)
from server.ports.users import (
    NameTaken,
    People,
    TokenRecord,
    UserRecord,
    UserStore,
)
from server.ports.world import (
    Clock,
    Ids,
)

__all__ = [
    "AgentFailure",
    "AgentFrame",
    "AgentOrder",
    "AgentResult",
    "AgentRunner",
    "AgentUnavailable",
    "AttemptCancelled",
    "AttemptLimits",
    "AttemptRecord",
    "AttemptRef",
    "Batch",
    "Clock",
    "Emit",
    "Fenced",
    "Hub",
    "Ids",
    "KeyConflict",
    "Launched",
    "LogEntry",
    "LogHead",
    "ModelEndpoint",
    "NameTaken",
    "NewRun",
    "NotStored",
    "Page",
    "People",
    "Probe",
    "RunRecord",
    "StepChange",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "TokenRecord",
    "Trees",
    "UserRecord",
    "UserStore",
]
