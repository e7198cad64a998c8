// What one agent says, as it goes on. Whatever came is drawn a few times a second, for all agents
// at once: each drawing lays the page out, and nobody reads faster.

import { element } from "./dom.js";

const KEEP_CHARACTERS = 20_000; // of an agent's text; the log has all of it
const BLOCK_CHARACTERS = 1_000; // the next line begins a new block: a browser lays out only the last one again
const DRAW_MS = 80;
const MOST_WAITING = 100; // texts and lines: a page that nobody sees is given no frame to draw in
const NEAR_END = 40; // pixels

const due = new Set(); // outputs that have something to draw

function drawAll() {
  const outputs = [...due];
  due.clear();
  for (const output of outputs) output.draw();
  // All changes first, then all questions: the other way round is one layout per output.
  const ends = outputs.map(({ node }) => node.scrollHeight);
  outputs.forEach((output, number) => output.showEnd(ends[number]));
}

export class Output {
  #waiting = []; // functions, and texts as { channel, text }
  #blocks = []; // of text, oldest first, as { node, length }
  #length = 0; // of all blocks
  #channel = null; // of the text that goes on; null when the next one is another paragraph
  #atEnd = true;
  empty = true;

  constructor(node) {
    this.node = node;
    node.addEventListener("scroll", () => {
      this.#atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < NEAR_END;
    });
  }

  say(channel, text) {
    const last = this.#waiting.at(-1);
    if (last?.channel === channel) last.text = (last.text + text).slice(-KEEP_CHARACTERS);
    else this.#wait({ channel, text });
  }

  add(node) {
    this.#wait(() => {
      this.#channel = null;
      this.node.append(node);
    });
  }

  replace(earlier, node) {
    this.#wait(() => earlier.replaceWith(node));
  }

  draw() {
    for (const what of this.#waiting.splice(0)) {
      if (typeof what === "function") what();
      else this.#write(what);
    }
  }

  // Stick to the end, unless the reader has scrolled away.
  showEnd(height) {
    if (this.#atEnd) this.node.scrollTop = height;
  }

  #wait(what) {
    this.empty = false;
    if (this.#waiting.length >= MOST_WAITING) this.draw(); // asks for no layout
    this.#waiting.push(what);
    if (!due.size) setTimeout(() => requestAnimationFrame(drawAll), DRAW_MS);
    due.add(this);
  }

  #write({ channel, text }) {
    if (channel !== this.#channel) this.#begin(`text ${channel}`);
    this.#channel = channel;
    const line = this.#blocks.at(-1).length > BLOCK_CHARACTERS ? text.indexOf("\n") : -1;
    if (line >= 0) {
      this.#put(text.slice(0, line));
      this.#begin(`text ${channel} more`);
    }
    this.#put(text.slice(line + 1));
    this.#forget();
  }

  #begin(className) {
    const node = element("div", { className });
    this.#blocks.push({ node, length: 0 });
    this.node.append(node);
  }

  #put(text) {
    const block = this.#blocks.at(-1);
    block.node.append(text);
    block.length += text.length;
    this.#length += text.length;
  }

  // The oldest text, down to what is kept.
  #forget() {
    while (this.#length > KEEP_CHARACTERS) {
      const [oldest] = this.#blocks;
      if (this.#blocks.length > 1) {
        this.#blocks.shift();
        oldest.node.remove();
        this.#length -= oldest.length;
      } else {
        oldest.node.textContent = oldest.node.textContent.slice(-KEEP_CHARACTERS / 2);
        this.#length = oldest.length = KEEP_CHARACTERS / 2;
      }
    }
  }
}
