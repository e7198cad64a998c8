// How the connection is, in words, and the way out where there is one.

import { byId } from "./dom.js";

const RELOAD = "this page and the server do not understand each other: reload it";
const REFUSED = {
  4403: "not allowed from this address: add it to allowed_origins in the server's settings, then reload",
  1009: RELOAD,
};

export function showConnection(podium) {
  let ticking = 0;
  podium.addEventListener("state", ({ detail }) => {
    clearInterval(ticking);
    const waits = detail.state === "reconnecting";
    byId("retry").hidden = !waits && detail.state !== "refused";
    byId("countdown").hidden = !waits;
    byId("connection").textContent = words(detail);
    if (waits) ticking = countDown(detail.retry_in_ms);
  });
  byId("retry").addEventListener("click", () => podium.connect());
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
