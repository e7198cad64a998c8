"""The one authorisation check, for the socket, REST, events, the log and reports, live and replay
alike. What is not yours looks exactly like what does not exist.
"""

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import ProjectId, RunId, UserId, is_uuid
from protocol.resources import Project
from server.ports import RunRecord, Store


async def visible_run(store: Store, user: UserId, run_id: RunId) -> RunRecord:
    """The run, if it is the user's and of a project that is open to the user.

    A run that is another's, one of a project that the user has left, and one that does not exist
    raise the same `not_found`.
    """
    record = await store.visible(user, run_id) if is_uuid(run_id) else None
    if record is None:
        raise ProtocolError(ErrorCode.NOT_FOUND, "run not found", field="run_id")
    return record


async def visible_project(store: Store, user: UserId, project_id: ProjectId) -> Project:
    """The project, if it is open to the user: its members, and the operator.

    Raises `not_found` for every other one, there or not.
    """
    project = await store.open_project(user, project_id)
    if project is None:
        raise project_not_found()
    return project


def project_not_found() -> ProtocolError:
    return ProtocolError(ErrorCode.NOT_FOUND, "project not found", field="project_id")
