// The report, drawn from report.json.

import { count, element } from "./dom.js";

const MARKS = { verified: "✓", moved: "↷", ambiguous: "≈", unverified: "?", invalid: "✗" };
const STALE = "Stale: the repository changed while this ran. The report speaks of the pinned tree, not of what is there now.";

export function drawReport(report, links) {
  const findings = new Map(report.findings.map((finding) => [finding.id, finding]));
  const nodes = [
    element("h3", { textContent: report.headline }),
    report.meta?.stale ? element("p", { id: "stale", textContent: STALE }) : null,
    element("p", { className: "facts" }, citations(report.citations), ...links.flatMap((link) => [" · ", link])),
  ].filter(Boolean);
  const proof = drawReadOnly(report.meta?.read_only);
  const told = new Set(report.sections.flatMap(({ findings: ids }) => ids ?? []));
  const violated = report.meta?.read_only?.verdict === "violated";
  if (violated) nodes.push(...proof);
  for (const section of report.sections) nodes.push(...drawSection(section, findings));
  nodes.push(...drawUntold(report.findings.filter(({ id }) => !told.has(id))));
  if (!violated) nodes.push(...proof);
  return nodes;
}

function drawReadOnly(told) {
  if (!told) return [];
  const items = [...(told.violations ?? []).map((what) => `Violated: ${what}`), ...(told.gaps ?? []).map((gap) => `Not proven: ${gap}`)];
  return [
    element("h4", { textContent: "Read-only" }),
    element("p", { id: "read-only", className: told.verdict, textContent: told.line }),
    ...(items.length ? [element("ul", { className: "notes" }, ...items.map((item) => element("li", { textContent: item })))] : []),
  ];
}

function citations({ total, verified, moved, ambiguous, unverified, invalid }) {
  const found = verified + moved + ambiguous;
  const lost = unverified + invalid ? `, ${unverified + invalid} not found` : "";
  return `${found} of ${count(total, "citation")} verified in the pinned tree${lost}`;
}

function drawSection(section, findings) {
  const body = [];
  if (section.text) body.push(element("p", { textContent: section.text, className: "text" }));
  if (section.items?.length) body.push(element("ul", {}, ...section.items.map((item) => element("li", { textContent: item }))));
  for (const id of section.findings ?? []) body.push(drawFinding(findings.get(id)));
  return body.length ? [element("h4", { textContent: section.title }), ...body] : [];
}

// The headline counts what no section shows: that is named, too, as in report.md.
function drawUntold(findings) {
  if (!findings.length) return [];
  return [element("details", { id: "untold" },
    element("summary", { textContent: `Not shown (${findings.length})` }),
    ...findings.map(drawFinding))];
}

function drawFinding(finding) {
  const head = element("summary", {},
    element("code", { textContent: finding.id }), " ",
    element("span", { className: `severity ${finding.severity}`, textContent: finding.severity }), " ",
    finding.title, " ", fate(finding));
  const reason = finding.verdict ? [`validator: ${finding.verdict.kind}: ${finding.verdict.reason}`] : [];
  const notes = [...(finding.notes ?? []), ...reason].map((note) => element("li", { textContent: note }));
  return element("details", { className: "finding" }, head,
    element("p", { textContent: finding.claim }),
    element("p", { textContent: `Impact: ${finding.impact}` }),
    finding.fix ? element("p", { textContent: `Fix: ${finding.fix}` }) : null,
    ...finding.citations.map(drawCitation),
    notes.length ? element("ul", { className: "notes" }, ...notes) : null);
}

// What became of one that does not stand for itself.
function fate({ state, merged_into: into }) {
  if (!["merged", "refuted", "unverified"].includes(state)) return null;
  return element("span", { className: "facts", textContent: into ? `(${state} into ${into})` : `(${state})` });
}

function drawCitation(citation) {
  const state = citation.state ?? "unverified";
  const { path, line_start: first, line_end: last } = citation;
  const place = first === last ? `${path}:${first}` : `${path}:${first}–${last}`;
  return element("figure", { className: `citation ${state}` },
    element("figcaption", {},
      element("code", { textContent: place }),
      ` ${MARKS[state]} ${state}`),
    element("pre", { textContent: citation.quote }));
}
