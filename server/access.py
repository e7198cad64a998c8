"""The one authorisation check, for the socket, REST and reports, live and replay alike."""

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import RunId, UserId, is_uuid
from server.ports import RunRecord, Store


async def visible_run(store: Store, user: UserId, run_id: RunId) -> RunRecord:
    """The run, if it is the user's.

    A run that is another's looks exactly like one that does not exist: both raise `not_found`.
    """
    record = await store.get(run_id) if is_uuid(run_id) else None
    if record is None or record.user_id != user:
        raise ProtocolError(ErrorCode.NOT_FOUND, "run not found", field="run_id")
    return record
