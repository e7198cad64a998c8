"""A launch in the SQLite store: a run with its steps, and what its log begins with."""

import uuid
from typing import Any

import aiosqlite

from protocol.frames import FlowRunCreated, FlowRunPlanned, FlowRunStepStatus, StoredFrame
from protocol.plan import PlannedStep
from server.ports import NewRun, NotStored
from server.stores import rows
from server.stores.reads import open_to_user
from server.stores.writer import Tick


async def insert_run(tick: Tick, new: NewRun) -> None:
    """In the transaction of the tick. Raises NotStored when the project is not open to the user."""
    await _check_open(tick.db, new)
    await tick.db.execute(
        "INSERT INTO flow_runs (id, project_id, user_id, launch_key, body_hash, command,"
        " parent_run_id, flow_name, band, model, status, input, plan, patches, created_at,"
        " updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        _run_values(new),
    )
    await tick.db.execute("INSERT INTO flow_generations VALUES (?, 1, 0)", (new.run.id,))
    await tick.db.executemany(
        "INSERT INTO flow_steps (id, run_id, step_id, kind, agent, status, reused, input,"
        " output, denied_tools, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_step_values(new, step, tick.at) for step in new.plan.steps],
    )
    tick.add(_first_frames(new))


async def _check_open(db: aiosqlite.Connection, new: NewRun) -> None:
    """Raise NotStored when the project is not open to the user: in the transaction of the launch,
    so that none slips through while a membership is being withdrawn."""
    row = await (
        await db.execute(
            f"SELECT {open_to_user('?')}",
            (new.user_id, new.run.project_id),
        )
    ).fetchone()
    if row is None or not row[0]:
        raise NotStored(f"no project {new.run.project_id} of {new.user_id}")


def _run_values(new: NewRun) -> tuple[Any, ...]:
    run = new.run
    return (
        run.id,
        run.project_id,
        new.user_id,
        new.key,
        new.body_hash,
        new.command,
        new.parent_run_id,
        run.flow_name,
        run.band,
        run.model,
        run.status,
        rows.blob(run.input),
        rows.packed(new.plan),
        rows.packed(new.patches),
        run.created_at,
        run.updated_at,
    )


def _step_values(new: NewRun, step: PlannedStep, at: str) -> tuple[Any, ...]:
    fact = new.facts.steps[step.id]
    return (
        str(uuid.uuid4()),
        new.run.id,
        step.id,
        step.kind,
        step.role,
        fact.status,
        fact.reused,
        rows.blob({"files": step.files, "needs": step.needs}),
        rows.blob(fact.output),
        fact.denied_tools,
        at,
        at,
    )


def _first_frames(new: NewRun) -> list[StoredFrame]:
    """What a run's log begins with."""
    run_id = new.run.id
    frames: list[StoredFrame] = [
        FlowRunCreated(
            run_id=run_id, run=new.run, command=new.command, parent_run_id=new.parent_run_id
        ),
        FlowRunPlanned(run_id=run_id, plan=new.plan),
    ]
    for step in new.plan.steps:
        fact = new.facts.steps[step.id]
        if fact.reused:
            frames.append(
                FlowRunStepStatus(
                    run_id=run_id,
                    step_id=step.id,
                    attempt=0,
                    status=fact.status,
                    agent=step.role,
                    reused=True,
                )
            )
    return frames
