// Small helpers. Text from agents and repositories only ever becomes text nodes.

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

export const clock = (at) => new Date(at).toLocaleTimeString();
