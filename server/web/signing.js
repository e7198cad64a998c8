// Who is here: signing in and out. Nothing of whoever leaves stays behind: the page begins anew.

import { byId } from "./dom.js";

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
  byId("token").addEventListener("input", (event) => event.target.setCustomValidity(""));
  byId("sign-out").addEventListener("click", () => signOut(podium, tell));
  // A link with a token that is opened where this page is open already changes no more than the fragment.
  window.addEventListener("hashchange", () => { if (fragment().has("token")) location.reload(); });
  podium.addEventListener("state", ({ detail }) => {
    if (detail.state === "signed_out") leave("signed out: sign in again");
    if (detail.state === "live" && podium.hello.user_id !== user) leave("somebody else has signed in: sign in again");
  });
  if (why && !token) return ask(why);
  if (token) await signIn(token);
  try {
    await open();
  } catch {
    ask("sign in");
  }
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

// Out of the address bar, and out of the history.
function tokenOfLink() {
  const rest = fragment();
  const token = rest.get("token");
  rest.delete("token");
  if (token !== null) history.replaceState(null, "", `${location.pathname}#${rest}`);
  return token;
}

async function signIn(token) {
  const response = await fetch("api/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  });
  return response.ok;
}

async function byForm(event, open) {
  event.preventDefault();
  const field = byId("token");
  if (await signIn(field.value)) {
    field.value = "";
    byId("sign-in").hidden = true;
    await open();
  } else {
    field.setCustomValidity("not the right token");
    field.reportValidity();
  }
}

function ask(why) {
  byId("sign-in").hidden = false;
  byId("connection").textContent = why;
  byId("token").focus();
}

// The session ends first: a page that only forgot it would leave it to whoever comes next.
async function signOut(podium, tell) {
  const button = byId("sign-out");
  button.disabled = true;
  podium.close(); // the server closes it too, and would be asked why
  const answer = await fetch("api/session", { method: "DELETE", signal: AbortSignal.timeout(ANSWER_MS) }).catch(() => null);
  if (answer?.ok) return leave("signed out", location.pathname);
  button.disabled = false;
  podium.connect();
  const cause = answer ? `HTTP ${answer.status}` : "the server does not answer";
  tell({ message: `You are still signed in: ${cause}`, hint: HINTS[answer?.status] ?? "try again" });
}

// Begin anew, without trying the cookie: what was drawn, kept and followed goes with the document.
function leave(why, place = location.href) {
  document.body.hidden = true;
  history.replaceState({ why }, "", place);
  location.reload();
}
