"""Answers every command of one socket, exactly once; the answer precedes what it causes."""

from collections.abc import Callable
from typing import assert_never

import msgspec

from flows.registry import Catalogue
from protocol.commands import (
    Cancel,
    Command,
    Finish,
    Flows,
    Hello,
    Launch,
    Ping,
    Plan,
    Rerun,
    Subscribe,
    SubscribeIndex,
    Unsubscribe,
)
from protocol.connection import error_frame
from protocol.errors import ErrorCode, ProtocolError
from protocol.frames import ControlFrame, FlowRunAck
from protocol.ids import RunId, UserId
from server.access import visible_run
from server.channel.delivery import Delivery
from server.logs import logger
from server.ports import Store, StoreUnavailable
from server.runs.launch import Launcher, LaunchRequest
from server.runs.runner import Runner

log = logger(__name__)


class Commands:
    """The verbs of the wire, for one signed-in user."""

    def __init__(
        self, *, store: Store, launcher: Launcher, runner: Runner, catalogue: Catalogue
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._runner = runner
        self._catalogue = catalogue

    async def answer(
        self,
        user: UserId,
        command: Command,
        *,
        delivery: Delivery,
        send: Callable[[ControlFrame], None],
    ) -> None:
        """Do what the command says and send its answer; refusals are answers too."""
        try:
            await self._do(user, command, delivery, send)
        except ProtocolError as error:
            send(error_frame(command.id, error))
        except StoreUnavailable as error:
            unavailable = ProtocolError(ErrorCode.STORE_UNAVAILABLE, str(error))
            send(error_frame(command.id, unavailable))
        except Exception:
            log.exception("command_broke", command=type(command).__name__)
            failed = ProtocolError(ErrorCode.INTERNAL, "podium failed at this message")
            send(error_frame(command.id, failed))

    async def _do(
        self,
        user: UserId,
        command: Command,
        delivery: Delivery,
        send: Callable[[ControlFrame], None],
    ) -> None:
        match command:
            case Launch():
                await self._launch(user, command, delivery, send)
            case Rerun():
                await self._rerun(user, command, send)
            case Cancel():
                record = await visible_run(self._store, user, command.run_id)
                outcome = await self._runner.cancel(record, command.step_id)
                send(FlowRunAck(id=command.id, run_id=command.run_id, outcome=outcome))
            case Finish():
                await self._runner.finish(await visible_run(self._store, user, command.run_id))
                send(FlowRunAck(id=command.id, run_id=command.run_id, outcome="finishing"))
            case Subscribe():
                # Else a pane that is closed as soon as it was opened would be followed for ever.
                async with delivery.turns.of(command.run_id):
                    record = await visible_run(self._store, user, command.run_id)
                    answer, begin = await delivery.follow(record, command)
                    send(FlowRunAck(id=command.id, run_id=command.run_id))
                    send(answer)
                    begin()
            case Unsubscribe(run_id=run_id):
                if run_id is None:
                    delivery.index.unfollow()
                else:
                    async with delivery.turns.of(run_id):
                        delivery.unfollow(run_id)
                send(FlowRunAck(id=command.id, run_id=run_id))
            case Flows():
                models = self._launcher.models(user)
                send(FlowRunAck(id=command.id, flows=self._catalogue.infos(), models=models))
            case Plan():
                prepared = await self._launcher.plan(user, _request(command))
                send(FlowRunAck(id=command.id, plan=prepared.plan))
            case Hello() | Ping():
                send(FlowRunAck(id=command.id))
            case SubscribeIndex(project_id=project_id):
                send(FlowRunAck(id=command.id))
                delivery.index.follow(user, project_id)
            case _:
                assert_never(command)

    async def _launch(
        self,
        user: UserId,
        command: Launch,
        delivery: Delivery,
        send: Callable[[ControlFrame], None],
    ) -> None:
        if command.subscribe:
            delivery.check_room()  # a run that is refused to a pane would go on unseen
        launched = await self._launcher.launch(user, _request(command), key=command.key)
        run_id = launched.run.id
        ack = FlowRunAck(id=command.id, run_id=run_id, created=launched.created)
        if not command.subscribe:
            send(ack)
            return
        # The ack is the last thing that can fail: a message has one answer.
        async with delivery.turns.of(run_id):
            record = await visible_run(self._store, user, run_id)
            subscription = Subscribe(id=command.id, run_id=run_id)
            answer, begin = await delivery.follow(record, subscription)
            send(ack)
            send(answer)
            begin()

    async def _rerun(
        self, user: UserId, command: Rerun, send: Callable[[ControlFrame], None]
    ) -> None:
        parent = await visible_run(self._store, user, command.run_id)
        launched = await self._launcher.rerun(user, parent, again=command.steps, key=command.key)
        run_id: RunId = launched.run.id
        send(FlowRunAck(id=command.id, run_id=run_id, created=launched.created))


def _request(command: Launch | Plan) -> LaunchRequest:
    fields = {name: getattr(command, name, None) for name in LaunchRequest.__struct_fields__}
    return msgspec.convert(fields, LaunchRequest)
