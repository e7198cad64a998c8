// The first page: launch a flow, watch its agents, read the report. It uses only the public wire.

import { PodiumClient } from "./client.js";
import { showConnection } from "./connection.js";
import { byId, count, element, when } from "./dom.js";
import { Output } from "./output.js";
import { MARKS, readOnly } from "./receipt.js";
import { drawReport } from "./report.js";
import { begin, runOfAddress, showUser } from "./signing.js";

const TERMINAL = new Set(["completed", "partial", "failed", "cancelled"]);
const KEEP_RUNS = 200; // of the list
const NO_RUN = new Set(["not_found", "bad_message", "bad_arguments"]); // no such run, or no id of any
const podium = new PodiumClient();
const rows = new Map(); // of the run list, by run
let shown = null; // the run on the page
let flows = [];
let projects = new Map(); // their names, by id
let stale = false; // whether the server has sent this page away: what it shows is what it last heard

async function api(path, options) {
  const response = await fetch(path, options);
  if (response.status === 401) throw new Error("signed out");
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response.json();
}

// --- whoever is signed in -----------------------------------------------------------------------

async function open() {
  const [session, { projects: mine }, catalogue] = await Promise.all(["api/session", "api/projects", "api/flows"].map((path) => api(path)));
  showUser(session);
  flows = catalogue.flows;
  projects = new Map(mine.map(({ id, name }) => [id, name]));
  byId("launch").hidden = !mine.length;
  byId("no-project").hidden = mine.length > 0;
  if (session.kind === "operator") byId("no-project").textContent = "No project yet: start podium with the folder of one.";
  byId("project").replaceChildren(...mine.map(({ id, name, path }) => element("option", { value: id, textContent: name, title: path })));
  byId("flows").replaceChildren(...flows.flatMap(({ name, summary }) => ["small", "medium", "large"].map((band) => element("option", { value: `/${name} ${band}`, label: summary }))));
  byId("app").hidden = false;
  describe();
  podium.connect();
  showWanted();
}

function showWanted() {
  const wanted = runOfAddress();
  if (!wanted) hide();
  else if (wanted !== shown?.id) show(wanted);
}

// --- launching and the run list -----------------------------------------------------------------

function describe() {
  const name = byId("command").value.replace(/^\//, "").split(/\s/)[0];
  const flow = flows.find((candidate) => candidate.name === name || candidate.aliases.includes(name));
  byId("usage").textContent = flow ? flow.usage : `Flows: ${flows.map(({ name }) => `/${name}`).join(", ")}`;
}

byId("command").addEventListener("input", describe);

byId("launch").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = byId("go");
  if (button.disabled) return;
  button.disabled = true; // a double click is one run
  byId("problem").textContent = "";
  try {
    const ack = await podium.launch({ project_id: byId("project").value, command: byId("command").value });
    show(ack.run_id);
  } catch (error) {
    tell(error);
  } finally {
    button.disabled = false;
  }
});

function tell({ message, hint }) {
  byId("problem").textContent = [message, hint].filter(Boolean).join(" — ");
}

// Rows are states: each takes the place of the one before it. Drawn once for all that came together.
let due = false;
podium.followIndex({
  onRow({ run }) {
    rows.set(run.id, run);
    if (!due) requestAnimationFrame(listRuns);
    due = true;
  },
  onError: tell,
});

function listRuns() {
  const runs = [...rows.values()].sort((one, other) => other.created_at.localeCompare(one.created_at));
  for (const { id } of runs.splice(KEEP_RUNS)) rows.delete(id);
  due = false;
  byId("runs").replaceChildren(...runs.map((run) => {
    const said = run.report?.headline ?? run.error;
    const link = element("a", { href: `#run=${run.id}` },
      element("span", { className: "command", textContent: commandOf(run), title: commandOf(run) }),
      element("span", { className: "facts" },
        element("span", { className: `status ${run.status}`, textContent: run.status }),
        ` · ${projects.get(run.project_id) ?? "another project"}`,
        element("time", { textContent: when(run.created_at), dateTime: run.created_at })),
      said ? element("span", { className: "headline", textContent: said, title: said }) : null);
    if (run.id === shown?.id) link.setAttribute("aria-current", "true");
    return element("li", {}, link);
  }));
}

// As it was typed; of a run that was launched by fields, as far as a line can say it.
function commandOf({ flow_name: flow, band, input: { question, paths } }) {
  const text = typeof question === "string" ? question : "";
  if (text.startsWith("/")) return text;
  return [`/${flow}`, band, ...(Array.isArray(paths) ? paths : []), text].filter(Boolean).join(" ");
}

window.addEventListener("hashchange", showWanted);

// --- one run ------------------------------------------------------------------------------------

function show(runId) {
  if (shown) podium.unfollow(shown.id);
  shown = { id: runId, status: "queued", steps: new Map(), findings: new Map() };
  location.hash = `run=${runId}`;
  byId("run").hidden = false;
  byId("no-run").hidden = true;
  byId("plan").hidden = true;
  byId("report").hidden = true;
  byId("demo").hidden = true;
  byId("agents").replaceChildren();
  countFindings();
  byId("run-title").textContent = "";
  byId("run-facts").textContent = "";
  listRuns();
  podium.follow(runId, {
    onFrame: (frame) => HANDLERS[frame.type]?.(frame),
    onTruncate: () => show(runId), // what was drawn of it cannot be taken back alone
    onReset: ({ snapshot }) => drawSnapshot(snapshot),
    onError: (error) => (NO_RUN.has(error.code) ? showNoRun() : tell(error)),
  });
}

function hide() {
  if (shown) podium.unfollow(shown.id);
  shown = null;
  byId("run").hidden = true;
  byId("no-run").hidden = true;
  listRuns();
}

function showNoRun() {
  hide();
  byId("no-run").hidden = false;
}

const HANDLERS = {
  flow_run_created: (frame) => { byId("run-title").textContent = frame.command; setStatus(frame.run.status); },
  flow_run_planned: (frame) => drawPlan(frame.plan),
  flow_run_status: (frame) => setStatus(frame.status, frame.reason),
  flow_run_step_status: (frame) => setStep(frame),
  flow_run_step_delta: (frame) => addText(frame),
  flow_run_step_tool: (frame) => addTool(frame),
  flow_run_step_notice: (frame) => addLine(frame, "notice", frame.message),
  flow_run_step_receipt: (frame) => addReceipt(frame),
  flow_run_finding: (frame) => addFinding(frame.finding),
  flow_run_report: (frame) => loadReport(frame),
  flow_run_finished: (frame) => setStatus(frame.status, frame.reason, frame.totals),
};

function drawSnapshot(run) {
  byId("agents").replaceChildren(element("p", { className: "notice", textContent: "What its agents said has expired; the report stays." }));
  shown.steps.clear();
  byId("run-title").textContent = commandOf(run);
  setStatus(run.status);
  loadReport(run.report);
}

function setStatus(status, reason, totals) {
  Object.assign(shown, { status, reason, totals });
  drawStatus();
  countFindings();
}

// What is not heard any more may have gone on, and takes no command from here.
function drawStatus() {
  if (!shown) return;
  const { status, reason, totals } = shown;
  const live = !TERMINAL.has(status);
  const words = status === "cancelling" ? "stopping" : status;
  const parts = [live && stale ? "not followed any more" : words, reason === status ? "" : reason?.replaceAll("_", " ")];
  if (totals) parts.push(`${totals.seconds.toFixed(1)} s`, `${totals.usage.input_tokens ?? 0} + ${totals.usage.output_tokens ?? 0} tokens`);
  byId("run-facts").textContent = parts.filter(Boolean).join(" · ");
  byId("run-facts").className = live && stale ? "status cancelled" : `status ${status}`;
  byId("cancel").hidden = byId("finish").hidden = !live || stale;
}

podium.addEventListener("state", ({ detail }) => {
  stale = detail.state === "refused";
  byId("app").classList.toggle("stale", stale);
  drawStatus();
});

function drawPlan(plan) {
  const own = new Map(plan.steps.filter((step) => step.endpoint).map((step) => [step.role, step.endpoint]));
  byId("demo").hidden = ![plan.endpoint, ...own.values()].some(({ demo }) => demo);
  const facts = [
    `Scope: ${plan.scope.description} (${plan.scope.files.length} of ${count(plan.scope.total_files, "file")})`,
    `Band: ${plan.band.name}, ${plan.band.reason}`,
    `Model: ${plan.endpoint.model} at ${plan.endpoint.host}`,
    ...[...own].map(([role, { model, host }]) => `Model of ${role}: ${model} at ${host}`),
    `Pinned tree: ${plan.tree.id}`,
    ...plan.roster.map((seat) => `${seat.title}: ${seat.reason}`),
    ...plan.omitted.map((seat) => `Left out: ${seat.title}: ${seat.reason}`),
    ...Object.entries(plan.tree.left_out ?? {}).map(([reason, count]) => `Not sent: ${count} ${reason.replaceAll("_", " ")}`),
    ...(plan.warnings ?? []),
  ];
  byId("plan").querySelector("summary").textContent = `Plan: ${count(plan.roster.length, "role")}, ${count(plan.scope.files.length, "file")}`;
  byId("plan").hidden = false;
  byId("plan").querySelector("ul").replaceChildren(...facts.map((fact) => element("li", { textContent: fact })));
  for (const step of plan.steps.filter(({ kind }) => kind === "agent")) addStep(step);
}

function addStep(step) {
  const status = element("span", { className: "status pending", textContent: "pending" });
  const said = element("div", { className: "output", tabIndex: 0 });
  said.setAttribute("role", "log");
  said.setAttribute("aria-label", `Output of ${step.id}`);
  said.setAttribute("aria-live", "off");
  const stop = element("button", { type: "button", textContent: "Stop", title: `Stop ${step.id}`, hidden: true });
  stop.addEventListener("click", () => podium.cancel(shown.id, step.id).catch(tell));
  const badge = element("span", { className: "badge", hidden: true });
  const card = element("article", {},
    element("h4", {}, element("span", { textContent: step.title }), " ", element("code", { textContent: step.id })),
    element("p", {}, status, " ", badge, " ", stop), said);
  byId("agents").append(card);
  shown.steps.set(step.id, { card, status, badge, output: new Output(said), stop, tools: new Map(), attempt: 0 });
}

function setStep(frame) {
  const step = shown.steps.get(frame.step_id);
  if (!step) return;
  const attempt = frame.attempt > 1 ? `attempt ${frame.attempt}` : "";
  const reason = frame.message ?? (frame.reason === frame.status ? "" : frame.reason?.replaceAll("_", " "));
  step.status.textContent = [frame.status, attempt, reason].filter(Boolean).join(" · ");
  // Whoever never ran has nothing to show but why.
  const idle = ["skipped", "cancelled"].includes(frame.status) && step.output.empty;
  step.card.classList.toggle("idle", idle);
  step.output.node.hidden = idle;
  step.status.className = `status ${frame.status}`;
  if (frame.reason === "read_only_unproven") setBadge(step, { verdict: "violated", why: [frame.message ?? "read-only could not be proven"] });
  step.stop.hidden = frame.status !== "running" && frame.status !== "queued";
  if (frame.attempt !== step.attempt && frame.status === "running") {
    if (step.attempt) addLine(frame, "notice", `Attempt ${frame.attempt} begins.`);
    step.attempt = frame.attempt;
  }
}

function addText(frame) {
  shown.steps.get(frame.step_id)?.output.say(frame.channel, frame.text);
}

function addTool(frame) {
  const step = shown.steps.get(frame.step_id);
  if (!step) return;
  const line = element("details", { className: `tool ${frame.status}` },
    element("summary", { textContent: `${frame.summary} · ${frame.status}` }),
    element("pre", { textContent: [frame.args, frame.result].filter(Boolean).join("\n\n") }));
  const earlier = step.tools.get(frame.call_id);
  if (earlier) step.output.replace(earlier, line);
  else step.output.add(line);
  step.tools.set(frame.call_id, line);
}

function addLine(frame, kind, text) {
  shown.steps.get(frame.step_id)?.output.add(element("p", { className: kind, textContent: text }));
}

function addReceipt(frame) {
  const step = shown.steps.get(frame.step_id);
  if (!step) return;
  const found = readOnly(frame.receipt);
  setBadge(step, found);
  const { agent, agent_version, mode, host } = frame.receipt;
  addLine(frame, "notice", `Receipt: ${agent} ${agent_version}, ${mode} mode, model at ${host}. Read-only ${found.verdict}: ${found.why.join("; ")}.`);
}

// The words say it; the colour only repeats them. What was violated once stays so.
function setBadge(step, { verdict, why }) {
  if (step.badge.dataset.verdict === "violated") return;
  step.badge.dataset.verdict = verdict;
  step.badge.textContent = `${MARKS[verdict]} read-only ${verdict}`;
  step.badge.title = why.join("; ");
  step.badge.hidden = false;
}

function addFinding(finding) {
  shown.findings.set(finding.id, finding);
  countFindings();
}

function countFindings() {
  const { size } = shown.findings;
  const words = [count(size, "finding"), TERMINAL.has(shown.status) ? "" : "so far"];
  byId("agents-title").textContent = size ? `Agents · ${words.join(" ").trim()}` : "Agents";
}

async function loadReport(frame) {
  if (!frame) return;
  const runId = shown.id;
  const report = await api(`api/runs/${runId}/report.json`).catch(() => null);
  if (!report || shown?.id !== runId) return;
  const links = ["md", "json"].map((format) => element("a", { href: `api/runs/${runId}/report.${format}`, textContent: `report.${format}`, download: `${runId}.${format}` }));
  byId("report").replaceChildren(...drawReport(report, links));
  byId("report").hidden = false;
}

for (const verb of ["cancel", "finish"]) {
  byId(verb).addEventListener("click", () => podium[verb](shown.id).catch(tell));
}

showConnection(podium);
begin(podium, { open, tell });
