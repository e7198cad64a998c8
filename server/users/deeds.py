"""What the audit log says of guests: that they came, and what their messages did."""

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


def entry_of(guest: Guest, deed: Deed, *, outcome: str = OK, run_id: str = "") -> Entry:
    """What a guest did, with all that is known of who that is."""
    return Entry(
        what=deed,
        who=guest.user,
        outcome=outcome,
        peer=guest.peer,
        way=guest.way,
        run_id=run_id,
        token_id=guest.token or "",
    )


def tell_sign_in(audit: Audit, guest: Guest) -> None:
    """Somebody came in. A client that comes back again and again is told of once a while."""
    once = (Deed.SIGN_IN, guest.user, guest.peer, guest.way, guest.token)
    audit.tell(entry_of(guest, Deed.SIGN_IN), once=once)


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
    entry = entry_of(guest, deed, outcome=outcome, run_id=run_id if is_uuid(run_id) else "")
    repeated = deed is Deed.VIEW or getattr(answer, "created", None) is False
    audit.tell(entry, once=(socket, deed, run_id, outcome) if repeated else None)
