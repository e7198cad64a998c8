// What a receipt proves of one agent, in words. The report says the same of the whole run.

const LEVELS = ["filesystem", "network", "processes"];
const PROBES = { write_probe: "write into the copy", network_probe: "reach the host's network", process_probe: "see the host's processes" };
export const MARKS = { proven: "✓", "not proven": "–", violated: "✗" };

export function readOnly(receipt) {
  const broken = violations(receipt);
  if (broken.length) return { verdict: "violated", why: broken };
  const open = gaps(receipt);
  return open.length ? { verdict: "not proven", why: open } : { verdict: "proven", why: [`contained: ${LEVELS.join(", ")}; every try from inside failed as it must`] };
}

function violations(receipt) {
  const broken = Object.entries(PROBES).filter(([name]) => receipt[name] === "succeeded").map(([, what]) => `it could ${what}`);
  return receipt.tree_before === receipt.tree_after ? broken : ["the copy changed while it ran", ...broken];
}

function gaps(receipt) {
  if (receipt.contained === "none") return ["it was not contained by the operating system"];
  const missing = LEVELS.filter((level) => !receipt.levels?.includes(level)).map((level) => `not contained: ${level}`);
  const untried = Object.entries(PROBES).filter(([name]) => (receipt[name] ?? "not_run") === "not_run").map(([, what]) => `not tried from inside: to ${what}`);
  const open = [...missing, ...untried];
  return open.length || receipt.proven === "yes" ? open : ["its receipt does not say that it is proven"];
}
