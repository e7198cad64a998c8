// Who is here: signing in and out. Nothing of whoever leaves stays behind: the page begins anew.

import { byId } from "./dom.js";

const SILENT = "the server does not answer";
const ANSWER_MS = 10_000; // so long the server may take to sign somebody out
const HINTS = { 403: "add this address to allowed_origins in the server's settings" };
let user = null; // the name of whoever this page was drawn for

/**
 * Sign in by the token of the link, by the cookie, or by the form. `open` draws the page of whoever is
 * signed in; it throws when nobody is. `tell` says what went wrong.
 */
export async function begin(podium, { open, tell }) {
  const why = history.state?.why; // what this page said when it was left
  history.replaceState(null, "");
  const token = tokenOfLink();
  byId("sign-in").addEventListener("submit", (event) => byForm(event, open));
  byId("sign-out").addEventListener("click", () => signOut(podium, tell));
  // A link with a token that is opened where this page is open already changes no more than the fragment.
  window.addEventListener("hashchange", () => { if (fragment().has("token")) location.reload(); });
  podium.addEventListener("state", ({ detail }) => {
    if (detail.state === "signed_out") leave("signed out: sign in again");
    if (detail.state === "live" && podium.hello.user_id !== user) leave("somebody else has signed in: sign in again");
  });
  if (why && !token) return ask(why);
  const problem = token ? await signIn(token) : null;
  const refused = problem && `The link's token ${problem.startsWith(SILENT) ? "could not be tried" : "was refused"}: ${problem}.`;
  try {
    await open();
    if (refused) showRefused(refused);
  } catch {
    ask("sign in", refused);
  }
}

// Whoever opened the link would take this page for that of the link's user: the cookie is another's, perhaps.
function showRefused(refused) {
  const name = byId("user").textContent;
  const out = byId("sign-out").hidden ? "" : ", or sign out to sign in with another token";
  byId("refused").textContent = `${refused} You are still signed in as ${name}. Ask for a new link${out}.`;
  byId("go-on").textContent = `Go on as ${name}`;
  byId("go-on").addEventListener("click", () => { byId("refused-link").hidden = true; }, { once: true });
  byId("refused-link").hidden = false;
}

/** Say who is signed in, as `GET /api/session` has it. */
export function showUser({ user_id, kind, way }) {
  user = user_id;
  byId("user").textContent = kind === "user" ? user_id : `${user_id} (${kind})`;
  byId("user").title = user_id; // a long name is cut short
  byId("who").hidden = false;
  byId("sign-out").hidden = way === "proxy"; // who signs in by a proxy signs out there
}

const fragment = () => new URLSearchParams(location.hash.slice(1));

/** The part of the address that names a run, where one is signed in to look at it. */
export const runOfAddress = () => (byId("app").hidden ? null : fragment().get("run"));

// Out of the address bar, and out of the history.
function tokenOfLink() {
  const rest = fragment();
  const token = rest.get("token");
  rest.delete("token");
  if (token !== null) history.replaceState(null, "", `${location.pathname}#${rest}`);
  return token;
}

// What is wrong, in the server's words; null when it is the right token.
async function signIn(token) {
  const response = await fetch("api/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
    signal: AbortSignal.timeout(ANSWER_MS),
  }).catch(() => null);
  if (!response) return `${SILENT} — try again`;
  if (response.ok) return null;
  const { message = `HTTP ${response.status}`, hint } = await response.json().catch(() => ({}));
  const seconds = response.headers.get("Retry-After");
  return [message, hint, seconds && `in ${seconds} s`].filter(Boolean).join(" — ");
}

async function byForm(event, open) {
  event.preventDefault();
  const field = byId("token");
  const button = byId("sign-in").querySelector("button");
  if (button.disabled) return;
  button.disabled = true;
  const problem = await signIn(field.value);
  button.disabled = false;
  if (problem) return ask("sign in", problem);
  field.value = "";
  byId("sign-in").hidden = true;
  await open().catch((error) => ask("sign in", error.message));
}

function ask(why, problem) {
  byId("sign-in").hidden = false;
  byId("sign-in-problem").textContent = problem ?? "";
  byId("connection").textContent = why;
  byId("token").focus();
}

// The session ends first: a page that only forgot it would leave it to whoever comes next.
async function signOut(podium, tell) {
  const button = byId("sign-out");
  button.disabled = true;
  podium.close(); // the server closes it too, and would be asked why
  const answer = await fetch("api/session", { method: "DELETE", signal: AbortSignal.timeout(ANSWER_MS) }).catch(() => null);
  if (answer?.ok) return leave("signed out");
  button.disabled = false;
  podium.connect();
  const cause = answer ? `HTTP ${answer.status}` : SILENT;
  tell({ message: `You are still signed in: ${cause}`, hint: HINTS[answer?.status] ?? "try again" });
}

// Begin anew, without trying the cookie: what was drawn, kept and followed goes with the document, and
// the run with the address.
function leave(why) {
  document.body.hidden = true;
  history.replaceState({ why }, "", location.pathname);
  location.reload();
}
