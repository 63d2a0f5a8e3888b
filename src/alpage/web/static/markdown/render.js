/** Blocks into elements. */

import { el } from "../dom.js";
import { icon } from "../icons.js";
import { parseBlocks, toLines } from "./blocks.js";
import { renderInline } from "./inline.js";

const DEEPEST = 8;

/** How long a button says that it has copied. */
export const PAUSE_MS = 1600;

/**
 * The words on code blocks and tables, in the page's language.
 * @typedef {{copy: string, copied: string, code: string, table: string}} Words
 * @typedef {import("./blocks.js").Block} Block
 */

/**
 * Append the elements of blocks. Items join the list that stands at the end.
 * @param {Block[]} blocks
 * @param {Element | DocumentFragment} into
 * @param {Words} words
 * @param {number} [depth] how deep `into` lies in other blocks
 */
export function appendBlocks(blocks, into, words, depth = 0) {
  for (const block of blocks) {
    if (block.kind === "item") listFor(block, into).append(item(block, words, depth));
    else into.append(element(block, words, depth));
  }
}

/**
 * A whole text at once, appended.
 * @param {string} text
 * @param {Element | DocumentFragment} into
 * @param {Words} words
 */
export function renderMarkdown(text, into, words) {
  appendBlocks(parseBlocks(toLines(text)), into, words);
}

/**
 * @param {Block} block
 * @param {Words} words
 * @param {number} depth
 * @returns {HTMLElement}
 */
function element(block, words, depth) {
  switch (block.kind) {
    case "rule": return el("hr");
    case "code": return codeBlock(block.language ?? "", words, block.inside.join("\n")).element;
    case "heading": return heading(block);
    case "table": return table(block, words);
    case "quote": return contents(block.inside, el("blockquote"), words, depth);
    default: return text(block.inside, el("p"));
  }
}

/**
 * @param {string[]} lines
 * @param {HTMLElement} into
 */
function text(lines, into) {
  renderInline(lines.map((line) => line.trimStart()).join("\n").trimEnd(), into);
  return into;
}

/**
 * @param {string[]} lines
 * @param {HTMLElement} into
 * @param {Words} words
 * @param {number} depth
 */
function contents(lines, into, words, depth) {
  if (depth >= DEEPEST) return text(lines, into);
  appendBlocks(parseBlocks(lines), into, words, depth + 1);
  return into;
}

/**
 * The page's own headings come before an answer's: `#` is the third level.
 * @param {Block} block
 */
function heading(block) {
  const level = block.level ?? 1;
  const tag = /** @type {"h3" | "h4" | "h5" | "h6"} */ (`h${Math.min(level + 2, 6)}`);
  return text(block.inside, el(tag, { class: `level-${level}` }));
}

/**
 * @param {Block} block
 * @param {Element | DocumentFragment} into
 */
function listFor(block, into) {
  const tag = block.ordered ? "ol" : "ul";
  const last = into.lastElementChild;
  if (last !== null && last.localName === tag) return last;
  const start = block.ordered && block.number !== 1 ? block.number : null;
  const list = el(tag, { start });
  into.append(list);
  return list;
}

/**
 * An item whose first block is a paragraph shows it without the distance of one.
 * @param {Block} block
 * @param {Words} words
 * @param {number} depth
 */
function item(block, words, depth) {
  const made = el("li");
  const lines = block.inside;
  const task = /^\[([ xX])\] +/.exec(lines[0] ?? "");
  const rest = task === null ? lines : [lines[0].slice(task[0].length), ...lines.slice(1)];
  if (task !== null) {
    made.className = "task";
    made.append(task[1] === " " ? "\u2610 " : "\u2611 ");
  }
  if (depth >= DEEPEST) {
    text(rest, made);
    return made;
  }
  const blocks = parseBlocks(rest);
  const first = blocks[0]?.kind === "paragraph" ? blocks.shift() : undefined;
  if (first !== undefined) text(first.inside, made);
  appendBlocks(blocks, made, words, depth + 1);
  return made;
}

/**
 * A table in a box that scrolls for itself, so that the page never does.
 * @param {Block} block
 * @param {Words} words
 */
function table(block, words) {
  const [head, ...rows] = block.rows ?? [[]];
  const align = block.align ?? [];
  /** @param {"td" | "th"} tag */
  const row = (tag) => (/** @type {string[]} */ cells) =>
    el("tr", {}, ...cells.map((cell, at) => inCell(cell, el(tag, { class: align[at] }))));
  const body = rows.length > 0 && el("tbody", {}, ...rows.map(row("td")));
  const made = el("table", {}, el("thead", {}, row("th")(head)), body);
  return el("div", { class: "table", role: "region", tabindex: 0, "aria-label": words.table }, made);
}

/**
 * @param {string} cell
 * @param {HTMLElement} into
 */
function inCell(cell, into) {
  renderInline(cell, into);
  return into;
}

/**
 * A code block with its language and a button that copies it. Text is added to `code`.
 * @param {string} language
 * @param {Words} words
 * @param {string} [content]
 * @returns {{element: HTMLElement, code: HTMLElement}}
 */
export function codeBlock(language, words, content = "") {
  const code = el("code", {}, content);
  const name = language === "" ? words.code : language;
  const copy = el("button", { type: "button", class: "button quiet copy" }, icon("copy"), el("span", {}, words.copy));
  copy.addEventListener("click", () => void copied(copy, code, words));
  const head = el("div", { class: "code-head" }, el("span", { class: "language" }, name), copy);
  const box = el("pre", { tabindex: 0, role: "region", "aria-label": name }, code);
  return { element: el("div", { class: "code" }, head, box), code };
}

/**
 * @param {HTMLElement} button
 * @param {HTMLElement} code
 * @param {Words} words
 */
async function copied(button, code, words) {
  const label = button.lastElementChild;
  if (label === null || !(await copyText(code.textContent ?? ""))) return;
  label.textContent = words.copied;
  setTimeout(() => { label.textContent = words.copy; }, PAUSE_MS);
}

/**
 * Put a text on the clipboard; false where the browser does not allow it.
 * @param {string} text
 * @returns {Promise<boolean>}
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without HTTPS, browsers offer only the older way, through a selection.
    const area = el("textarea", { class: "offscreen", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
