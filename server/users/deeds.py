"""What the audit log says of the messages of a socket."""

from protocol.commands import Cancel, Command, Finish, Launch, Rerun, Subscribe
from protocol.frames import ControlFrame, FlowRunAck, FlowRunError
from protocol.ids import is_uuid
from server.users.audit import OK, Audit, Deed, Entry
from server.users.directory import Guest

DEEDS: dict[type[Command], Deed] = {
    Launch: Deed.LAUNCH,
    Rerun: Deed.RERUN,
    Cancel: Deed.CANCEL,
    Finish: Deed.FINISH,
    Subscribe: Deed.VIEW,
}


def tell_sign_in(audit: Audit, guest: Guest) -> None:
    """A socket was opened. A client that comes back again and again is told of once a while."""
    entry = Entry(
        what=Deed.SIGN_IN,
        who=guest.user,
        outcome=OK,
        peer=guest.peer,
        way=guest.way,
        token_id=guest.token or "",
    )
    audit.tell(entry, once=(Deed.SIGN_IN, guest.user, guest.peer, guest.way, guest.token))


def tell_command(
    audit: Audit, guest: Guest, command: Command, answer: ControlFrame, *, socket: int
) -> None:
    """A message was answered. A run that one socket looks at again is told of once."""
    deed = DEEDS.get(type(command))
    if deed is None or not isinstance(answer, FlowRunAck | FlowRunError):
        return
    outcome = answer.code.value if isinstance(answer, FlowRunError) else OK
    made = answer.run_id if isinstance(answer, FlowRunAck) else None
    asked: str = getattr(command, "run_id", "")
    run_id = made or asked
    entry = Entry(
        what=deed,
        who=guest.user,
        outcome=outcome,
        peer=guest.peer,
        way=guest.way,
        run_id=run_id if is_uuid(run_id) else "",
        token_id=guest.token or "",
    )
    repeated = deed is Deed.VIEW or getattr(answer, "created", None) is False
    audit.tell(entry, once=(socket, deed, run_id, outcome) if repeated else None)
