// How the connection is, in words, and the way out where there is one.

import { byId } from "./dom.js";

const RELOAD = "this page and the server do not understand each other: reload it";
const REFUSED = {
  4403: "not allowed from this address: add it to allowed_origins in the server's settings, then reload",
  1009: RELOAD,
};
const NO_MEMBER = "You are no longer a member of a project; reload";

export function showConnection(podium) {
  let ticking = 0;
  let before = null;
  podium.addEventListener("state", ({ detail }) => {
    clearInterval(ticking);
    const waits = detail.state === "reconnecting";
    // Who may not come from here is refused before the socket opens: an open one ends with a membership.
    const lost = detail.state === "refused" && detail.code === 4403 && before === "live";
    before = detail.state;
    byId("retry").hidden = lost || (!waits && detail.state !== "refused");
    byId("reload").hidden = !lost;
    byId("countdown").hidden = !waits;
    byId("connection").textContent = lost ? NO_MEMBER : words(detail);
    if (waits) ticking = countDown(detail.retry_in_ms);
  });
  byId("retry").addEventListener("click", () => podium.connect());
  byId("reload").addEventListener("click", () => location.reload());
  // The network is back: why wait.
  window.addEventListener("online", () => {
    if (podium.state === "reconnecting") podium.connect();
  });
}

function words({ state, code }) {
  return state === "refused" ? REFUSED[code] ?? RELOAD : state;
}

// The seconds stand beside the status, not in it: a screen reader would read out every one of them.
function countDown(milliseconds) {
  const at = performance.now() + milliseconds;
  const draw = () => { byId("countdown").textContent = `in ${Math.max(1, Math.ceil((at - performance.now()) / 1000))} s`; };
  draw();
  return setInterval(draw, 250);
}
