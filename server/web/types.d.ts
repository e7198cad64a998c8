// The wire of podium as types. Made from the Structs of protocol/; change those, then
// `PYTHONPATH=. python -m tests.protocol.golden` writes this file anew.
//
// Inside `podium.v1` types, fields, codes and values are only added: a client ignores what it does
// not know, and counts the `seq` of frames that it does not know.

/** Everything that a client may send. */
export type Command =
  | Hello
  | Launch
  | Cancel
  | Finish
  | Rerun
  | Subscribe
  | SubscribeIndex
  | Unsubscribe
  | Flows
  | Plan
  | Ping;

/** A frame of a run's log: it has `seq` and `at`. */
export type StoredFrame =
  | FlowRunCreated
  | FlowRunPlanned
  | FlowRunStatus
  | FlowRunStepStatus
  | FlowRunStepDelta
  | FlowRunStepTool
  | FlowRunStepReceipt
  | FlowRunStepNotice
  | FlowRunFinding
  | FlowRunReport
  | FlowRunFinished;

/** A frame of the connection. */
export type ControlFrame =
  | FlowRunHello
  | FlowRunAck
  | FlowRunError
  | FlowRunSubscribed
  | FlowRunCaughtUp
  | FlowRunReset
  | FlowRunLagging
  | FlowRunHeartbeat
  | FlowRunIndex
  | FlowRunDraining;

/** Everything that the server may send. */
export type Frame = StoredFrame | ControlFrame;

/** 201: the one time that a token is shown. */
export interface Admitted {
  user: UserInfo;
  token_id: string;
  token: string;
  /** Signs a browser in; the token is in the fragment, which no server is sent. */
  login_url: string | null;
}

/** Whether runs can start; a server without an agent still shows those that it has. */
export interface AgentState {
  available: boolean;
  version?: string | null;
  reason?: string | null;
  hint?: string | null;
}

export interface Alive {
  status: "ok";
  build: string;
}

export type Band = "small" | "medium" | "large";

/** Stop a run, or one of its steps. Ack: `{outcome: "cancelling" | "already_terminal"}`. */
export interface Cancel {
  type: "cancel";
  id: string;
  run_id: string;
  step_id?: string | null;
}

export interface Cancelled {
  cancelled: true;
}

/** The limits of a band. They count specialists, never total seats. */
export interface Caps {
  specialists: number;
  parallel: number;
  rounds: number;
  /** Files under review; the rest is counted in Coverage. */
  files: number;
  /** The widest fan-out of a step over the files. */
  batches: number;
  findings_per_step: number;
  turns: number;
  tool_calls: number;
  /** One attempt's whole time. */
  seconds: number;
  /** One attempt's answer, per model call. */
  tokens: number;
}

export type Channel = "text" | "thinking" | "stderr";

export interface ChosenBand {
  name: Band;
  reason: string;
  /** `explicit`, `signals` or `default`. */
  source: string;
}

/** One place in the reviewed tree. Lines count from 1; both ends are included. */
export interface Citation {
  path: string;
  line_start: number;
  line_end: number;
  quote: string;
  state?: CitationState;
  /** Why it is not plainly verified, or what was repaired; None when there is nothing to say. */
  note?: string | null;
  /** The path as the agent wrote it, when it was repaired. */
  cited_path?: string | null;
  /** The first line as the agent wrote it, when it was corrected. */
  cited_line?: number | null;
}

/**
 * The server's verdict on one citation, checked against the pinned tree.
 * `verified`: The quote stands at the cited lines.
 * `moved`: The quote stands once, elsewhere in the file; the lines were corrected.
 * `ambiguous`: The quote stands in several places; the nearest to the cited line was taken.
 * `unverified`: The file exists; the quote stands nowhere in it.
 * `invalid`: The path names no file of the tree, or the quote is no usable quote.
 */
export type CitationState =
  | "verified"
  | "moved"
  | "ambiguous"
  | "unverified"
  | "invalid";

/** How many citations the agents made, by the server's verdict. */
export interface Citations {
  total: number;
  verified: number;
  moved: number;
  ambiguous: number;
  unverified: number;
  invalid: number;
}

/** A dimension that a role looked at and found nothing in. */
export interface Cleared {
  dimension: string;
  note: string;
  step_id: string;
}

/** `POST /api/runs` by a slash command, as the socket's `launch` takes it. */
export interface CommandBody {
  /** In either case. */
  project_id: string;
  command: string;
  /** One of the models of `GET /api/flows`; left out or empty: the default. */
  model?: string;
}

export type Confidence = "high" | "medium" | "low";

export type Containment = "none" | "bubblewrap";

/** What was and was not looked at; present in every report. */
export interface Coverage {
  /** Every step delivered that was to, and no file in scope was left out over the cap. */
  complete: boolean;
  scope: string;
  files_reviewed: number;
  files_in_scope: number;
  steps: StepCoverage[];
  /** Files that were not sent to any agent, counted by reason. */
  left_out?: Record<string, number>;
  /** The first of those in scope that the band's cap left out. */
  left_out_paths?: string[];
  /** Roles whose signal was there but which the band's cap left out, each with its reason. */
  omitted_roles?: string[];
  notes?: string[];
}

/** A reader's place in a run's log: the last frame it has. */
export interface Cursor {
  gen: number;
  seq: number;
}

/** Something not worth doing now. It never counts as a severity. */
export interface Deferred {
  title: string;
  reason: string;
  reopen_when: string;
  source: string;
  step_id: string;
}

/** `outline`: Without delta and tool frames. */
export type Detail = "full" | "outline";

/** Faults of the whole, and faults by top-level field. */
export interface Details {
  formErrors: string[];
  fieldErrors: Record<string, string[]>;
}

export interface Draining {
  status: "draining";
}

/** Where the model answers. Never holds a key. */
export interface Endpoint {
  name: string;
  host: string;
  /** As the endpoint calls it. */
  model: string;
  /** The model's name in the settings; empty when it is the endpoint's own name. */
  known_as?: string;
  /** The scripted demo model: not a review. */
  demo?: boolean;
}

/** Every other refusal, with a code of the wire. */
export interface ErrorBody {
  error: ErrorCode;
  /** A sentence for a person. */
  message: string;
  /** The part of the request that is wrong. */
  field?: string | null;
  /** The way out. */
  hint?: string | null;
}

/** The `code` of every error frame and of every REST error beyond the four run routes' own. */
export type ErrorCode =
  | "bad_message"
  | "unauthenticated"
  | "forbidden"
  | "not_found"
  | "unknown_flow"
  | "bad_arguments"
  | "key_conflict"
  | "already_terminal"
  | "busy"
  | "rate_limited"
  | "too_large"
  | "agent_unavailable"
  | "read_only_unproven"
  | "store_unavailable"
  | "internal";

/**
 * One claim about the code, with its citations and everything the server did to it.
 * `id` is the server's and never changes; `alias` is the agent's own label.
 */
export interface Finding {
  id: string;
  step_id: string;
  role: string;
  title: string;
  claim: string;
  category: string;
  severity: Severity;
  confidence: Confidence;
  impact: string;
  citations: Citation[];
  state?: FindingState;
  fix?: string | null;
  action?: string | null;
  /** Whether a cited line was added by the change under review; None when no diff was reviewed. */
  introduced?: boolean | null;
  alias?: string | null;
  merged_into?: string | null;
  merged_from?: string[];
  verdict?: Verdict | null;
  /** What the server changed and why, in order. */
  notes?: string[];
}

/**
 * `unverified`: None of its citations was found: listed apart, never a basis of the recommendation.
 */
export type FindingState =
  | "open"
  | "confirmed"
  | "demoted"
  | "refuted"
  | "merged"
  | "unverified";

/** Stop early with a report: what is queued is skipped, what runs may end. */
export interface Finish {
  type: "finish";
  id: string;
  run_id: string;
}

export interface Finishing {
  finishing: true;
}

export interface FlowBand {
  name: Band;
  /** How many agents a run of this band starts, as `3` or `3–5`. */
  agents: string;
  summary: string;
}

/** One entry of the catalogue, for a composer. */
export interface FlowInfo {
  name: string;
  title: string;
  summary: string;
  aliases: string[];
  /** The argument hint, as `/code-review [band] [--base REF] [path…] ["focus"]`. */
  usage: string;
  inputs: FlowInput[];
  bands: FlowBand[];
  /** The input that REST's `question` feeds. */
  primary_input: string;
}

export interface FlowInput {
  name: string;
  type: string;
  summary: string;
  required?: boolean;
  flag?: string | null;
  choices?: string[];
  default?: unknown;
}

/** The catalogue, and the models that the asking user may name in a launch. */
export interface FlowList {
  flows: FlowInfo[];
  models: ModelInfo[];
}

export interface FlowPlan {
  /** A hash of all the rest: the same launch on the same tree has the same plan id. */
  plan_id: string;
  project_id: string;
  flow: string;
  flow_version: number;
  title: string;
  /** The equivalent slash command. */
  command: string;
  band: ChosenBand;
  caps: Caps;
  inputs: Record<string, unknown>;
  tree: Tree;
  scope: Scope;
  signals: SignalHits[];
  roster: Seat[];
  omitted: Seat[];
  steps: PlannedStep[];
  /** Of every brief and output schema the plan uses, by name. */
  hashes: Record<string, string>;
  /** Of every step that has none of its own. */
  endpoint: Endpoint;
  warnings?: string[];
}

/** The answer to message `id`; which fields it has depends on the message. */
export interface FlowRunAck {
  type: "flow_run_ack";
  id: string;
  run_id?: string | null;
  created?: boolean | null;
  outcome?: string | null;
  plan?: FlowPlan | null;
  flows?: FlowInfo[] | null;
  models?: ModelInfo[] | null;
}

export interface FlowRunCaughtUp {
  type: "flow_run_caught_up";
  run_id: string;
  seq: number;
}

export interface FlowRunCreated {
  type: "flow_run_created";
  run_id: string;
  seq: number;
  at: string;
  run: Run;
  command: string;
  parent_run_id?: string | null;
}

export interface FlowRunDraining {
  type: "flow_run_draining";
  retry_after_ms: number;
}

/** The refusal of message `id` (empty when the message had no usable id). */
export interface FlowRunError {
  type: "flow_run_error";
  id: string;
  code: ErrorCode;
  message: string;
  field?: string | null;
  hint?: string | null;
  retry_after_ms?: number | null;
}

/** One finding; a later one with the same id replaces it. */
export interface FlowRunFinding {
  type: "flow_run_finding";
  run_id: string;
  seq: number;
  at: string;
  step_id: string;
  attempt: number;
  finding: Finding;
}

/** The last frame of a run: there is exactly one. */
export interface FlowRunFinished {
  type: "flow_run_finished";
  run_id: string;
  seq: number;
  at: string;
  status: RunStatus;
  totals: Totals;
  reason?: string | null;
}

export interface FlowRunHeartbeat {
  type: "flow_run_heartbeat";
  heads: Record<string, number>;
  at: string;
}

/** The first frame after authentication. */
export interface FlowRunHello {
  type: "flow_run_hello";
  user_id: string;
  build: string;
  server_time: string;
  limits: Limits;
}

export interface FlowRunIndex {
  type: "flow_run_index";
  row: IndexRow;
  project_id: string;
}

/** The reader is `behind` frames and is being served from the log. */
export interface FlowRunLagging {
  type: "flow_run_lagging";
  run_id: string;
  behind: number;
}

export interface FlowRunPlanned {
  type: "flow_run_planned";
  run_id: string;
  seq: number;
  at: string;
  plan: FlowPlan;
}

/** The report is stored. */
export interface FlowRunReport {
  type: "flow_run_report";
  run_id: string;
  seq: number;
  at: string;
  revision: number;
  complete: boolean;
  coverage: Coverage;
  headline: string;
  counts: Record<string, number>;
  summary_md: string;
  url: string;
  /** Whether the receipts prove read-only, in one sentence. */
  read_only?: string | null;
  /** The repository changed while the run went on. */
  stale?: boolean;
}

/** The frames after the cursor have expired: `snapshot` is the run as it is now. */
export interface FlowRunReset {
  type: "flow_run_reset";
  run_id: string;
  reason: string;
  snapshot: Run;
  gen: number;
  head: number;
}

export interface FlowRunStatus {
  type: "flow_run_status";
  run_id: string;
  seq: number;
  at: string;
  status: RunStatus;
  reason?: string | null;
}

/** `offset` counts Unicode code points, per attempt and channel. */
export interface FlowRunStepDelta {
  type: "flow_run_step_delta";
  run_id: string;
  seq: number;
  at: string;
  step_id: string;
  attempt: number;
  channel: Channel;
  offset: number;
  text: string;
}

/** `code` is stable; `message` is a sentence for a person. */
export interface FlowRunStepNotice {
  type: "flow_run_step_notice";
  run_id: string;
  seq: number;
  at: string;
  step_id: string;
  attempt: number;
  code: string;
  message: string;
  data?: Record<string, unknown>;
}

export interface FlowRunStepReceipt {
  type: "flow_run_step_receipt";
  run_id: string;
  seq: number;
  at: string;
  step_id: string;
  attempt: number;
  receipt: Receipt;
}

/** `attempt` is 0 while no attempt was made. */
export interface FlowRunStepStatus {
  type: "flow_run_step_status";
  run_id: string;
  seq: number;
  at: string;
  step_id: string;
  attempt: number;
  status: StepStatus;
  agent?: string | null;
  reason?: string | null;
  /** One sentence for a person: what happened and what to do. */
  message?: string | null;
  exit_code?: number | null;
  usage?: Usage | null;
  session_id?: string | null;
  reused?: boolean;
  /** Of a queued step that has to wait: for what, and in which place. */
  queue?: Queue | null;
}

/** One tool call; a later frame with the same `call_id` replaces it. */
export interface FlowRunStepTool {
  type: "flow_run_step_tool";
  run_id: string;
  seq: number;
  at: string;
  step_id: string;
  attempt: number;
  call_id: string;
  name: string;
  status: ToolStatus;
  summary: string;
  /** JSON, at most 2 KiB of it. */
  args?: string | null;
  /** At most 4 KiB of it. */
  result?: string | null;
}

/** `from` is the seq after which frames follow; a client truncates what it has to it. */
export interface FlowRunSubscribed {
  type: "flow_run_subscribed";
  run_id: string;
  gen: number;
  head: number;
  from: number;
}

/** Ask for the catalogue; the ack carries it. */
export interface Flows {
  type: "flows";
  id: string;
  project_id?: string | null;
}

/** `GET /api/runs/{id}/frames`: the stored frames after `from`, which a client truncates to. */
export interface FramesPage {
  run_id: string;
  gen: number;
  head: number;
  from: number;
  /** Frames after the cursor are gone: `from` is the head, and the run itself has the rest. */
  expired: boolean;
  frames: StoredFrame[];
}

/** Optional; first if present. Carries the ticket of a client that has no header or cookie. */
export interface Hello {
  type: "hello";
  id: string;
  ticket?: string | null;
  client?: string | null;
  caps?: string[];
}

/** One row of a live run list. */
export interface IndexRow {
  run: Run;
  steps_done: number;
  steps_total: number;
}

/** Every fault of a body or of a query, at once. */
export interface InvalidBody {
  error: "invalid body" | "invalid query";
  details: Details;
}

/** The id in the path is no UUID. */
export interface InvalidId {
  error: "invalid id";
}

/**
 * Start a run from a slash command, from a flow with its inputs, or from a stored plan.
 * The ack `{run_id, created}` comes only after the run is durable. The same key with the same body
 * is the same run; with another body it is refused as `key_conflict`.
 */
export interface Launch {
  type: "launch";
  id: string;
  key: string;
  project_id?: string | null;
  command?: string | null;
  flow_name?: string | null;
  band?: Band | null;
  input?: Record<string, unknown> | null;
  model?: string | null;
  plan_id?: string | null;
  subscribe?: boolean;
}

/** `POST /api/runs`, checked. `input` holds `question` and everything else as it came. */
export interface LaunchBody {
  /** In either case. */
  project_id: string;
  flow_name: string;
  band: Band;
  /** `question` feeds the flow's primary input; other keys feed the inputs of their names. */
  input: Record<string, unknown> & { question: string; };
  /** One of the models of `GET /api/flows`; left out or empty: the default. */
  model?: string;
}

/** 201, and 200 for an idempotent repeat. */
export interface Launched {
  run_id: string;
}

/**
 * One kind of containment, enforced by the operating system.
 * `filesystem`: The agent sees the copy and its own program, read-only, and nothing else of the
 * disk.
 * `network`: The agent reaches podium's relay and nothing else.
 * `processes`: The agent sees no process but its own, and none of its own outlives it.
 */
export type Level = "filesystem" | "network" | "processes";

/**
 * What a queued step may wait for.
 * `run_parallel`: Its own run has as many agents at work as its band allows.
 * `endpoint_slots`: The model's endpoint serves as many agents as it can.
 * `host_memory`: The machine has no memory for another agent.
 */
export type Limit = "run_parallel" | "endpoint_slots" | "host_memory";

/** What a client should know before it hits it. */
export interface Limits {
  message_bytes: number;
  subscriptions: number;
  sockets: number;
  burst: number;
  per_second: number;
  heartbeat_seconds: number;
  fragments: number;
  waiting: number;
}

/** Lines from `start` to `end`, counted from 1, both included. */
export type LineRange = [number, number];

/** A model that the asking user may name in a launch. */
export interface ModelInfo {
  name: string;
  host: string;
  /** As its endpoint calls it; left out while nobody has asked the endpoint. */
  model?: string;
  /** Used when a launch names none. */
  default?: boolean;
}

/** `POST /api/users/{name}/tokens`. */
export interface NewToken {
  /** How long it is good; left out: until it is revoked. */
  days?: number | null;
  /** What it is for, as `laptop`. */
  label?: string;
}

/** `POST /api/users`: a user, and a first token. */
export interface NewUser {
  /** How long it is good; left out: until it is revoked. */
  days?: number | null;
  /** What it is for, as `laptop`. */
  label?: string;
  name: string;
  service?: boolean;
  /** Absolute paths on the server; what is no project yet becomes one. */
  projects?: string[];
  /** Let a revoked user in again, who then has all earlier runs. */
  again?: boolean;
}

/** A run that is not yours looks exactly like one that does not exist. */
export interface NoSuchRun {
  error: "run not found";
}

/** A sentence: `cannot cancel run in status '…'`, or `run is no longer running`. */
export interface NotCancelled {
  error: string;
}

/**
 * `fail`: The run fails.
 * `degrade`: The run goes on, its report is partial and names the step.
 * `skip`: The run goes on as if the step had had nothing to say; Coverage names it.
 */
export type OnFailure = "fail" | "degrade" | "skip";

/** Answered by an ack. */
export interface Ping {
  type: "ping";
  id: string;
}

/** Ask for the plan of a launch without running it; the ack carries the plan. */
export interface Plan {
  type: "plan";
  id: string;
  project_id?: string | null;
  command?: string | null;
  flow_name?: string | null;
  band?: Band | null;
  input?: Record<string, unknown> | null;
  model?: string | null;
}

/** `POST /api/plans`: a project with a slash command, or with a flow and its input. */
export interface PlanBody {
  project_id?: string | null;
  command?: string | null;
  flow_name?: string | null;
  band?: Band | null;
  input?: Record<string, unknown> | null;
  model?: string | null;
  /** Of a plan that is stored already: is it still good? */
  plan_id?: string | null;
}

export interface Planned {
  plan: FlowPlan;
}

export interface PlannedStep {
  id: string;
  kind: StepKind;
  phase: string;
  title: string;
  needs?: string[];
  /** An expression over facts; the step is skipped when it is false. None means `success()`. */
  when?: string | null;
  /** Why it is not called for then, in words. */
  otherwise?: string | null;
  role?: string | null;
  /** For a code step: the name of the pure function that computes it. */
  function?: string | null;
  /** For an agent step: `name@version`. */
  brief?: string | null;
  /** For an agent step: the name of its output schema. */
  output?: string | null;
  /** Of the ids of its findings. */
  prefix?: string | null;
  /** Its place in a fan-out, counted from 1. */
  index?: number | null;
  /** Its slice of the scope. */
  files?: string[];
  /** What the role must cover: findings or a cleared line for each. */
  dimensions?: string[];
  required?: boolean;
  on_failure?: OnFailure;
  retries?: number;
  /** How many of `needs` must have completed; None means none has to when `when` is `always()`. */
  quorum?: number | null;
  /** Of its role, where the settings give the role a model of its own; None is the plan's. */
  endpoint?: Endpoint | null;
}

export interface Project {
  id: string;
  path: string;
  name: string;
  created_at: string;
}

/** `POST /api/projects`: a folder on the server's machine. */
export interface ProjectBody {
  /** Absolute. */
  path: string;
}

/** `POST /api/users/{name}/projects`. Absolute paths on the server; or a project's id. */
export interface ProjectChange {
  add?: string[];
  remove?: string[];
}

export interface ProjectList {
  projects: Project[];
}

export type Proof = "yes" | "no";

/** Where a waiting step stands. `place` 1 is served next. */
export interface Queue {
  limit: Limit;
  place: number;
  /** Of the model that it waits for. */
  host: string;
}

export interface Ready {
  status: "ready";
  agent: AgentState;
}

/** What was seen of one attempt that bears on read-only. */
export interface Receipt {
  agent: string;
  agent_version: string;
  mode: string;
  /** The tools the agent was offered, as its own first line says. */
  tools: string[];
  /** Calls that were refused, by tool. */
  denials: string[];
  /** Of the model endpoint. */
  host: string;
  contained: Containment;
  /** What the containment enforced, in the order of `Level`; empty when there was none. */
  levels?: Level[];
  /** Writing into the copy. */
  write_probe: SelfTest;
  /** Reaching a port of the host. */
  network_probe?: SelfTest;
  /** Seeing a process of the host. */
  process_probe?: SelfTest;
  tree_before: string;
  /** Hashes of the pinned copy before and after the attempt. */
  tree_after: string;
  repository_before: string | null;
  /** Hashes of the repository's status and refs; None without git. */
  repository_after: string | null;
  /** When the last process of the attempt was gone. */
  ended_at?: string;
  /** `yes`: contained at every level, every probe failed as it must, the copy is the same. */
  proven: Proof;
}

/** The first line of a recording; `frames` lines follow, each a stored frame. */
export interface RecordingHeader {
  format: string;
  version: number;
  run_id: string;
  gen: number;
  frames: number;
  /** Whether the run had ended: then these are all the frames that there will ever be. */
  ended: boolean;
}

/** The report. Two reports are the same when they are equal without `meta`. */
export interface Report {
  version: number;
  flow: string;
  flow_version: number;
  title: string;
  /** The answer in one sentence. */
  headline: string;
  recommendation: string;
  complete: boolean;
  tree_id: string;
  scope: string;
  band: string;
  model: string;
  endpoint: string;
  /** Made by the scripted demo model: not a review. */
  demo: boolean;
  /** Where the model of each role answered that had one of its own. */
  role_endpoints?: Record<string, Endpoint>;
  /** Findings that stand, by severity. */
  counts: Record<string, number>;
  citations: Citations;
  findings: Finding[];
  sections: Section[];
  coverage: Coverage;
  deferred?: Deferred[];
  cleared?: Cleared[];
  /** The one command to run next. */
  next?: string | null;
  /**
   * Times, attempts, receipts, `read_only` (a `ReadOnly`) and `stale` (the repository changed
   * while the run went on): what differs between two runs that say the same.
   */
  meta?: Record<string, unknown>;
}

/** Where a run's report is and what it says at a glance. */
export interface ReportRef {
  revision: number;
  complete: boolean;
  headline: string;
  counts: Record<string, number>;
  /** At most 4 KiB of Markdown. */
  summary_md: string;
  url: string;
}

/**
 * Make a linked run with the same plan. Completed steps are reused, except `steps` and what
 * depends on them. Ack: `{run_id, created}`.
 */
export interface Rerun {
  type: "rerun";
  id: string;
  run_id: string;
  key: string;
  steps?: string[];
}

/**
 * `POST /api/runs/{id}/rerun`. Completed steps are reused, except `steps` and what depends on them.
 */
export interface RerunBody {
  /** The same as the `Idempotency-Key` header, which wins. */
  key?: string | null;
  steps?: string[];
}

/** One run, exactly as the run routes answer it: every key is always there. */
export interface Run {
  id: string;
  project_id: string;
  flow_name: string;
  band: Band;
  model: string | null;
  status: RunStatus;
  input: Record<string, unknown>;
  report: ReportRef | null;
  error: string | null;
  created_at: string;
  updated_at: string;
}

export interface RunDetail {
  run: Run;
  /** In the order of their creation. */
  steps: Step[];
}

export interface RunList {
  runs: Run[];
}

/** `partial`: A report exists, but a step it wanted did not deliver. */
export type RunStatus =
  | "queued"
  | "running"
  | "cancelling"
  | "completed"
  | "partial"
  | "failed"
  | "cancelled";

/** What is under review, and how that was found. */
export interface Scope {
  /** `paths`, `uncommitted`, `branch`, `head`, `tree` or `none` (a flow without files). */
  kind: string;
  description: string;
  files: ScopeFile[];
  /** Files in scope before the cap. */
  total_files: number;
  /** The first of those that the cap leaves out. */
  left_out?: string[];
  /** The commit the change is measured from. */
  base?: string | null;
  deleted?: string[];
}

export interface ScopeFile {
  path: string;
  lines: number;
  /** `present`, or with a diff: `added`, `modified`, `renamed`. */
  status?: string;
  /** Lines the change added; empty without a diff. */
  added?: LineRange[];
}

/** One role of the roster: chosen or left out, and why. */
export interface Seat {
  role: string;
  title: string;
  reason: string;
  spine?: boolean;
}

/** One part of a report, in order. A section without content is left out. */
export interface Section {
  id: string;
  title: string;
  text?: string;
  items?: string[];
  /** Ids of the findings shown here, in order. */
  findings?: string[];
}

/**
 * What came of trying, from inside the agent's own process, what it must not be able to do.
 * `not_run`: The agent was not contained at that level, or never got so far.
 */
export type SelfTest = "failed_as_it_must" | "succeeded" | "not_run";

/** `POST /api/session`: the answer sets the cookie. */
export interface SessionBody {
  token: string;
}

/** `GET /api/session`: who is signed in. */
export interface SessionInfo {
  user_id: string;
  kind: UserKind;
  /** How: `bearer`, `cookie` or `proxy`. */
  way: string;
  /** When the session or the token ends by itself. */
  expires_at: string | null;
}

export interface SessionOpened {
  user_id: string;
}

export type Severity = "critical" | "warning" | "suggestion";

export interface SignalHits {
  id: string;
  hits: number;
  examples: string[];
}

/** One step of a run, exactly as `GET /api/runs/{id}` answers it: every key is always there. */
export interface Step {
  id: string;
  run_id: string;
  step_id: string;
  kind: StepKind;
  agent: string | null;
  status: StepStatus;
  /** Names the process of the latest attempt. */
  task_id: string | null;
  /** Names the step's transcript. */
  chat_id: string;
  input: Record<string, unknown>;
  output: unknown;
  error: string | null;
  created_at: string;
  updated_at: string;
  /** The agent's own session of the latest attempt. */
  session_id: string | null;
}

export interface StepCoverage {
  step_id: string;
  role: string;
  status: string;
  required: boolean;
  reason?: string | null;
  reused?: boolean;
  denied_tools?: number;
}

export type StepKind = "code" | "agent";

export type StepStatus =
  | "pending"
  | "queued"
  | "running"
  | "completed"
  | "failed"
  | "cancelled"
  | "skipped";

/** Follow a run after a cursor, over the last `tail` frames, or from its start. */
export interface Subscribe {
  type: "subscribe";
  id: string;
  run_id: string;
  after?: Cursor | null;
  tail?: number | null;
  detail?: Detail;
}

/** Follow the rows of a run list. */
export interface SubscribeIndex {
  type: "subscribe_index";
  id: string;
  project_id?: string | null;
}

export interface Ticket {
  /** Good for one socket, said in its `hello`. */
  ticket: string;
  expires_in_seconds: number;
}

/** `POST /api/ws-ticket`. */
export interface TicketBody {
  /** The user whose socket it opens; only for service tokens, which must name one. */
  on_behalf_of?: string | null;
}

export interface TokenInfo {
  id: string;
  label: string;
  created_at: string;
  expires_at: string | null;
  revoked_at: string | null;
}

export type ToolStatus = "running" | "ok" | "failed" | "denied";

/** Of a whole run, at its end. */
export interface Totals {
  steps: number;
  completed: number;
  failed: number;
  skipped: number;
  cancelled: number;
  attempts: number;
  usage: Usage;
  /** From the run's creation to its end. */
  seconds: number;
  findings: number;
  citations_verified: number;
  citations_total: number;
}

/** The pinned copy that every agent of the run reads. */
export interface Tree {
  id: string;
  files: number;
  /** Files that were not copied, counted by reason. */
  left_out?: Record<string, number>;
  /** The first of them, as `path: reason`. */
  left_out_paths?: string[];
  /** Of all files that agents can read. */
  bytes?: number;
  /** Every one of these files, when there are few; else `folders` counts them. */
  paths?: string[];
  /**
   * Files below each folder at the top, `.` for those beside them, and `…` for those below folders
   * that are not named.
   */
  folders?: Record<string, number>;
  head?: string | null;
  branch?: string | null;
  dirty?: boolean;
  notes?: string[];
}

export interface UnknownFlow {
  error: "unknown_flow";
  message: string;
  known_flows: string[];
}

/** Stop following a run, or (without `run_id`) the run list. */
export interface Unsubscribe {
  type: "unsubscribe";
  id: string;
  run_id?: string | null;
}

/** Tokens, as the endpoint counted them. */
export interface Usage {
  input_tokens?: number;
  output_tokens?: number;
  cached_tokens?: number;
  requests?: number;
}

export interface UserInfo {
  /** The name. */
  id: string;
  kind: UserKind;
  created_at: string;
  revoked_at: string | null;
  /** Those that the user is a member of; the operator, who is of every one, has none here. */
  projects: Project[];
  tokens: TokenInfo[];
}

/**
 * `operator`: The local user: a member of every project, who alone changes users.
 * `service`: A chat back-end: it mints tickets on behalf of users, and may do nothing else.
 */
export type UserKind = "operator" | "user" | "service";

/** `GET /api/users`, the operator first. */
export interface UserList {
  users: UserInfo[];
}

/** What the adversarial validator says of one finding. */
export interface Verdict {
  finding_id: string;
  kind: VerdictKind;
  reason: string;
  citations?: Citation[];
}

export type VerdictKind = "confirmed" | "partially_refuted" | "refuted";

/** Why a socket was closed. */
export type CloseCode =
  | 1001
  | 1006
  | 1012
  | 1013
  | 4400
  | 4401
  | 4403
  | 4406
  | 4408
  | 4413
  | 4429;
