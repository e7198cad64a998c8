"""One example of every frame and message with every field filled, and the smallest ones beside.

The golden files are made of these; names are stable, as a test names the line that differs.
"""

from typing import Any

import msgspec

from protocol.commands import (
    Band,
    Cancel,
    Command,
    Cursor,
    Detail,
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
from protocol.errors import ErrorCode
from protocol.frames import (
    Channel,
    FlowRunAck,
    FlowRunCaughtUp,
    FlowRunCreated,
    FlowRunDraining,
    FlowRunError,
    FlowRunFinding,
    FlowRunFinished,
    FlowRunHeartbeat,
    FlowRunHello,
    FlowRunIndex,
    FlowRunLagging,
    FlowRunPlanned,
    FlowRunReport,
    FlowRunReset,
    FlowRunStatus,
    FlowRunStepDelta,
    FlowRunStepNotice,
    FlowRunStepReceipt,
    FlowRunStepStatus,
    FlowRunStepTool,
    FlowRunSubscribed,
    Limits,
    ServerFrame,
    ToolStatus,
)
from protocol.ids import Gen, PlanId, ProjectId, RunId, Seq, StepId
from protocol.plan import (
    Caps,
    ChosenBand,
    Endpoint,
    FlowPlan,
    LineRange,
    OnFailure,
    PlannedStep,
    Scope,
    ScopeFile,
    Seat,
    SignalHits,
    StepKind,
    Tree,
)
from protocol.report import (
    Citation,
    CitationState,
    Confidence,
    Coverage,
    Finding,
    FindingState,
    Severity,
    StepCoverage,
    Verdict,
    VerdictKind,
)
from protocol.resources import (
    Containment,
    FlowBand,
    FlowInfo,
    FlowInput,
    IndexRow,
    Level,
    Limit,
    ModelInfo,
    Proof,
    Queue,
    Receipt,
    ReportRef,
    Run,
    SelfTest,
    Totals,
    Usage,
)
from protocol.states import RunStatus, StepStatus

RUN_ID = RunId("0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a01")
PARENT_ID = RunId("0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a00")
PROJECT_ID = ProjectId("6f1c2d3e-4b5a-4968-8776-95a4b3c2d1e0")
STEP_ID = StepId("review.security")
AT = "2026-01-02T03:04:05.678Z"

USAGE = Usage(input_tokens=1200, output_tokens=340, cached_tokens=1000, requests=3)

RUN = Run(
    id=RUN_ID,
    project_id=PROJECT_ID,
    flow_name="code-review",
    band=Band.SMALL,
    model="qwen3-coder",
    status=RunStatus.COMPLETED,
    input={"question": "error handling", "paths": ["src"], "extra": {"kept": [1, 2.5, None]}},
    report=ReportRef(
        revision=1,
        complete=True,
        headline="1 critical finding",
        counts={"critical": 1, "warning": 0, "suggestion": 2},
        summary_md="# 1 critical finding",
        url=f"/api/runs/{RUN_ID}/report.md",
    ),
    error=None,
    created_at=AT,
    updated_at=AT,
)

NEW_RUN = Run(
    id=RUN_ID,
    project_id=PROJECT_ID,
    flow_name="code-review",
    band=Band.LARGE,
    model=None,
    status=RunStatus.QUEUED,
    input={},
    report=None,
    error=None,
    created_at=AT,
    updated_at=AT,
)

PLAN = FlowPlan(
    plan_id=PlanId("sha256:5f0c"),
    project_id=PROJECT_ID,
    flow="code-review",
    flow_version=1,
    title="Code review",
    command='/code-review small src "error handling"',
    band=ChosenBand(name=Band.SMALL, reason="2 files", source="signals"),
    caps=Caps(
        specialists=2,
        parallel=2,
        rounds=1,
        files=40,
        batches=2,
        findings_per_step=10,
        turns=20,
        tool_calls=40,
        seconds=600,
        tokens=4096,
    ),
    inputs={"focus": "error handling"},
    tree=Tree(
        id="sha256:77aa",
        files=120,
        left_out={"binary": 3},
        left_out_paths=["logo.png: binary"],
        bytes=240_000,
        folders={".": 2, "src": 118},
        head="9fceb02",
        branch="main",
        dirty=True,
        notes=["submodules are not copied"],
    ),
    scope=Scope(
        kind="uncommitted",
        description="uncommitted changes",
        files=[ScopeFile(path="src/a.py", lines=80, status="modified", added=[LineRange(3, 9)])],
        total_files=2,
        left_out=["src/b.py"],
        base="9fceb02",
        deleted=["src/old.py"],
    ),
    signals=[SignalHits(id="sql", hits=2, examples=["src/a.py:4"])],
    roster=[Seat(role="security", title="Security", reason="signal sql", spine=True)],
    omitted=[Seat(role="performance", title="Performance", reason="no signal")],
    steps=[
        PlannedStep(
            id=STEP_ID,
            kind=StepKind.AGENT,
            phase="review",
            title="Security",
            needs=[StepId("scope")],
            when="success()",
            otherwise="nothing was found",
            role="security",
            brief="security@1",
            output="findings",
            prefix="SEC",
            index=1,
            files=["src/a.py"],
            dimensions=["injection"],
            required=True,
            on_failure=OnFailure.FAIL,
            retries=1,
            quorum=1,
        ),
        PlannedStep(
            id=StepId("merge"), kind=StepKind.CODE, phase="report", title="Merge", function="merge"
        ),
    ],
    hashes={"security@1": "sha256:01"},
    endpoint=Endpoint(name="default", host="127.0.0.1:8766", model="demo", demo=True),
    warnings=["the demo model is not a review"],
)

CITATION = Citation(
    path="src/a.py",
    line_start=4,
    line_end=5,
    quote='cursor.execute(f"…{name}")',
    state=CitationState.MOVED,
    note="stands 2 lines below",
    cited_path="a.py",
    cited_line=2,
)

FINDING = Finding(
    id="F1",
    step_id=STEP_ID,
    role="security",
    title="SQL built from input",
    claim="The query is built by formatting.",
    category="injection",
    severity=Severity.CRITICAL,
    confidence=Confidence.HIGH,
    impact="Anyone can read the table.",
    citations=[CITATION],
    state=FindingState.CONFIRMED,
    fix="Use a parameter.",
    action="must-fix",
    introduced=True,
    alias="SEC-1",
    merged_into="F2",
    merged_from=["F3"],
    verdict=Verdict(
        finding_id="F1", kind=VerdictKind.CONFIRMED, reason="It stands.", citations=[CITATION]
    ),
    notes=["the line was corrected"],
)

COVERAGE = Coverage(
    complete=False,
    scope="uncommitted changes",
    files_reviewed=1,
    files_in_scope=2,
    steps=[
        StepCoverage(
            step_id=STEP_ID,
            role="security",
            status="completed",
            required=True,
            reason="retried",
            reused=True,
            denied_tools=1,
        )
    ],
    left_out={"too_large": 1},
    left_out_paths=["src/b.py"],
    omitted_roles=["performance: cap"],
    notes=["one file was left out"],
)

RECEIPT = Receipt(
    agent="qwen",
    agent_version="0.5.0",
    mode="plan",
    tools=["read_file"],
    denials=["write_file"],
    host="127.0.0.1:8766",
    contained=Containment.BUBBLEWRAP,
    levels=list(Level),
    write_probe=SelfTest.FAILED_AS_IT_MUST,
    network_probe=SelfTest.FAILED_AS_IT_MUST,
    process_probe=SelfTest.FAILED_AS_IT_MUST,
    ended_at="2026-07-01T12:00:09.500Z",
    tree_before="sha256:77aa",
    tree_after="sha256:77aa",
    repository_before="sha256:10",
    repository_after="sha256:10",
    proven=Proof.YES,
)

TOTALS = Totals(
    steps=4,
    completed=2,
    failed=1,
    skipped=1,
    cancelled=0,
    attempts=3,
    usage=USAGE,
    seconds=12.5,
    findings=3,
    citations_verified=2,
    citations_total=3,
)

FLOW = FlowInfo(
    name="code-review",
    title="Code review",
    summary="Specialists read a change.",
    aliases=["review"],
    usage='/code-review [band] [path…] ["focus"]',
    inputs=[
        FlowInput(
            name="base",
            type="string",
            summary="Compare with.",
            required=True,
            flag="--base",
            choices=["main"],
            default="main",
        )
    ],
    bands=[FlowBand(name=Band.SMALL, agents="2–3", summary="A look.")],
    primary_input="focus",
)

LIMITS = Limits(
    message_bytes=65536,
    subscriptions=200,
    sockets=32,
    burst=64,
    per_second=20,
    heartbeat_seconds=15.0,
)


PLAN_OF_TWO_MODELS = msgspec.structs.replace(
    PLAN,
    steps=[
        msgspec.structs.replace(
            step,
            endpoint=Endpoint(
                name="gpu", host="gpu.example.com", model="qwen3-coder-480b", known_as="big"
            ),
        )
        for step in PLAN.steps[:1]
    ],
)


def _stored(seq: int) -> dict[str, Any]:
    return {"run_id": RUN_ID, "seq": Seq(seq), "at": AT}


def _of_step(seq: int) -> dict[str, Any]:
    return {**_stored(seq), "step_id": STEP_ID, "attempt": 1}


FRAMES: dict[str, ServerFrame] = {
    "created": FlowRunCreated(
        **_stored(1), run=RUN, command="/code-review small", parent_run_id=PARENT_ID
    ),
    "created, least": FlowRunCreated(**_stored(1), run=NEW_RUN, command="/code-review"),
    "planned": FlowRunPlanned(**_stored(2), plan=PLAN),
    "planned, a role's own model": FlowRunPlanned(**_stored(2), plan=PLAN_OF_TWO_MODELS),
    "status": FlowRunStatus(**_stored(3), status=RunStatus.CANCELLING, reason="asked"),
    "status, least": FlowRunStatus(**_stored(3), status=RunStatus.RUNNING),
    "step status": FlowRunStepStatus(
        **_of_step(4),
        status=StepStatus.FAILED,
        agent="qwen",
        reason="no_answer",
        message="The model gave no answer; try again.",
        exit_code=1,
        usage=USAGE,
        session_id="s-1",
        reused=True,
    ),
    "step status, in line": FlowRunStepStatus(
        **{**_of_step(5), "attempt": 0},
        status=StepStatus.QUEUED,
        agent="security",
        reason="endpoint_slots",
        message="number 2 in line for 127.0.0.1:11434: it serves as many agents as it can",
        queue=Queue(limit=Limit.ENDPOINT_SLOTS, place=2, host="127.0.0.1:11434"),
    ),
    "step status, least": FlowRunStepStatus(
        **_stored(4), step_id=STEP_ID, attempt=0, status=StepStatus.PENDING
    ),
    "step delta": FlowRunStepDelta(
        **_of_step(5), channel=Channel.TEXT, offset=0, text='Grüße 👋\n"quoted" \\ \u2028'
    ),
    "step delta, thinking": FlowRunStepDelta(
        **_of_step(6), channel=Channel.THINKING, offset=7, text="…"
    ),
    "step delta, stderr": FlowRunStepDelta(
        **_of_step(7), channel=Channel.STDERR, offset=0, text="\x1b[31mred"
    ),
    "step tool": FlowRunStepTool(
        **_of_step(8),
        call_id="c1",
        name="read_file",
        status=ToolStatus.OK,
        summary="src/a.py",
        args='{"path":"src/a.py"}',
        result="80 lines",
    ),
    "step tool, least": FlowRunStepTool(
        **_of_step(8), call_id="c1", name="read_file", status=ToolStatus.RUNNING, summary=""
    ),
    "step receipt": FlowRunStepReceipt(**_of_step(9), receipt=RECEIPT),
    "step notice": FlowRunStepNotice(
        **_of_step(10), code="queue_place", message="2 before this one", data={"place": 3}
    ),
    "step notice, least": FlowRunStepNotice(**_of_step(10), code="stall", message="No sign."),
    "finding": FlowRunFinding(**_of_step(11), finding=FINDING),
    "report": FlowRunReport(
        **_stored(12),
        revision=1,
        complete=False,
        coverage=COVERAGE,
        headline="1 critical finding",
        counts={"critical": 1, "warning": 0, "suggestion": 2},
        summary_md="# 1 critical finding",
        url=f"/api/runs/{RUN_ID}/report.md",
        read_only="Read-only: proven for the one attempt (filesystem, network, processes).",
        stale=True,
    ),
    "finished": FlowRunFinished(
        **_stored(13), status=RunStatus.PARTIAL, totals=TOTALS, reason="step_failed"
    ),
    "hello": FlowRunHello(user_id="local", build="1.0.0", server_time=AT, limits=LIMITS),
    "ack": FlowRunAck(
        id="m1", run_id=RUN_ID, created=True, outcome="cancelling", plan=PLAN, flows=[FLOW]
    ),
    "ack, models": FlowRunAck(
        id="m1",
        models=[
            ModelInfo(name="default", host="127.0.0.1:11434", model="qwen3-coder", default=True),
            ModelInfo(name="big", host="gpu.example.com"),
        ],
    ),
    "ack, least": FlowRunAck(id="m1"),
    "error": FlowRunError(
        id="m1",
        code=ErrorCode.RATE_LIMITED,
        message="more than 20 messages a second",
        field="band",
        hint="wait",
        retry_after_ms=50,
    ),
    "error, least": FlowRunError(id="", code=ErrorCode.BAD_MESSAGE, message="not JSON"),
    "subscribed": FlowRunSubscribed(run_id=RUN_ID, gen=Gen(1), head=Seq(13), after=Seq(4)),
    "caught up": FlowRunCaughtUp(run_id=RUN_ID, seq=Seq(13)),
    "reset": FlowRunReset(run_id=RUN_ID, reason="expired", snapshot=RUN, gen=Gen(2), head=Seq(13)),
    "lagging": FlowRunLagging(run_id=RUN_ID, behind=900),
    "heartbeat": FlowRunHeartbeat(heads={RUN_ID: Seq(13)}, at=AT),
    "heartbeat, least": FlowRunHeartbeat(heads={}, at=AT),
    "index": FlowRunIndex(
        row=IndexRow(run=RUN, steps_done=1, steps_total=4), project_id=PROJECT_ID
    ),
    "draining": FlowRunDraining(retry_after_ms=2000),
}

COMMANDS: dict[str, Command] = {
    "hello": Hello(id="m1", ticket="t-1", client="pane/1.0", caps=["outline"]),
    "hello, least": Hello(id="m1"),
    "launch, command": Launch(
        id="m2",
        key="k-1",
        project_id=PROJECT_ID,
        command='/code-review small "error handling"',
        subscribe=True,
    ),
    "launch, flow": Launch(
        id="m2",
        key="k-1",
        project_id=PROJECT_ID,
        flow_name="code-review",
        band=Band.SMALL,
        input={"question": "error handling", "extra": [1, None]},
        model="qwen3-coder",
    ),
    "launch, plan": Launch(id="m2", key="k-1", plan_id=PlanId("sha256:5f0c")),
    "cancel": Cancel(id="m3", run_id=RUN_ID, step_id=STEP_ID),
    "cancel, least": Cancel(id="m3", run_id=RUN_ID),
    "finish": Finish(id="m4", run_id=RUN_ID),
    "rerun": Rerun(id="m5", run_id=RUN_ID, key="k-2", steps=[STEP_ID]),
    "rerun, least": Rerun(id="m5", run_id=RUN_ID, key="k-2"),
    "subscribe, after": Subscribe(
        id="m6", run_id=RUN_ID, after=Cursor(gen=1, seq=4), detail=Detail.OUTLINE
    ),
    "subscribe, tail": Subscribe(id="m6", run_id=RUN_ID, tail=100),
    "subscribe, least": Subscribe(id="m6", run_id=RUN_ID),
    "subscribe index": SubscribeIndex(id="m7", project_id=PROJECT_ID),
    "subscribe index, least": SubscribeIndex(id="m7"),
    "unsubscribe": Unsubscribe(id="m8", run_id=RUN_ID),
    "unsubscribe, least": Unsubscribe(id="m8"),
    "flows": Flows(id="m9", project_id=PROJECT_ID),
    "flows, least": Flows(id="m9"),
    "plan": Plan(id="m10", project_id=PROJECT_ID, command="/code-review"),
    "ping": Ping(id="m11"),
}
