// Small helpers. Text from agents and repositories only ever becomes text nodes.

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

export const when = (at) => new Date(at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

export const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;
