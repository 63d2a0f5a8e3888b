/**
 * The inside of a block: emphasis, code, links, line breaks. It makes nodes, never HTML; a tag in
 * the text is shown as the text that it is. The work grows with the text's length, whatever the text is.
 */

import { el } from "../dom.js";
import { Runs, flanks } from "./emphasis.js";
import { bareAddress, link, safeAddress } from "./links.js";

const PLAIN = /[^\\`*_~[\]!<&\nhH]+/y;
const ESCAPED = /[!-/:-@[-`{-~]/;
const TICKS = /`+/y;
const BREAK = /<br[ \t]{0,8}\/?>/iy;
const ANGLED = /<((?:https?:\/\/|mailto:)[^<>\s]{1,2000})>/iy;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos|nbsp));/y;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const LONGEST_TARGET = 2100;
const OPEN_BRACKETS = 64;
const OPEN_PARENTHESES = 8;

/**
 * Render one block's text into an element.
 * @param {string} text
 * @param {Element | DocumentFragment} into
 */
export function renderInline(text, into) {
  new Inline(text, into).run();
}

class Inline {
  /**
   * @param {string} text
   * @param {Element | DocumentFragment} into
   */
  constructor(text, into) {
    this.text = text;
    this.into = into;
    this.at = 0;
    this.plain = "";
    this.runs = new Runs();
    /** @type {{node: Text, bottom: import("./emphasis.js").Run | null, anchors: number}[]} */
    this.brackets = [];
    /** @type {HTMLAnchorElement[]} */
    this.anchors = [];
    /** Lengths of runs of backticks that no later run answers, so that none is searched twice. */
    this.unanswered = new Set();
  }

  run() {
    while (this.at < this.text.length) {
      PLAIN.lastIndex = this.at;
      const plain = PLAIN.exec(this.text);
      if (plain !== null) {
        this.plain += plain[0];
        this.at = PLAIN.lastIndex;
      } else if (!this.special(this.text[this.at])) {
        this.plain += this.text[this.at];
        this.at += 1;
      }
    }
    this.flush();
    this.runs.settle(null);
  }

  /**
   * Take what begins with this character; false where it stands for itself.
   * @param {string} character
   */
  special(character) {
    switch (character) {
      case "\\": return this.escape();
      case "`": return this.code();
      case "*": case "_": case "~": return this.emphasis(character);
      case "[": return this.open("[");
      case "!": return this.text[this.at + 1] === "[" && this.open("![");
      case "]": return this.close();
      case "<": return this.angle();
      case "&": return this.entity();
      case "\n": return this.newline();
      default: return this.bare();
    }
  }

  flush() {
    if (this.plain !== "") this.into.append(document.createTextNode(this.plain));
    this.plain = "";
  }

  /** @param {Node} node */
  append(node) {
    this.flush();
    this.into.append(node);
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (next === "\n") {
      this.at += 1;
      return true; // the line break that follows says it all
    }
    if (!ESCAPED.test(next)) return false;
    this.plain += next;
    this.at += 2;
    return true;
  }

  newline() {
    this.plain = this.plain.replace(/[ \t]{1,64}$/, "");
    this.append(el("br"));
    this.at += 1;
    return true;
  }

  code() {
    TICKS.lastIndex = this.at;
    const length = /** @type {RegExpExecArray} */ (TICKS.exec(this.text))[0].length;
    const begin = this.at + length;
    const end = this.unanswered.has(length) ? -1 : this.ticks(length, begin);
    if (end < 0) {
      this.unanswered.add(length);
      this.plain += "`".repeat(length);
      this.at = begin;
      return true;
    }
    let inside = this.text.slice(begin, end).replaceAll("\n", " ");
    if (inside.length > 2 && inside.startsWith(" ") && inside.endsWith(" ") && inside.trim() !== "") {
      inside = inside.slice(1, -1);
    }
    this.append(el("code", {}, inside));
    this.at = end + length;
    return true;
  }

  /**
   * Where the next run of exactly so many backticks begins, or -1.
   * @param {number} length
   * @param {number} from
   */
  ticks(length, from) {
    const run = new RegExp(TICKS, "g");
    run.lastIndex = from;
    for (let found = run.exec(this.text); found !== null; found = run.exec(this.text)) {
      if (found[0].length === length) return found.index;
    }
    return -1;
  }

  /** @param {string} character */
  emphasis(character) {
    let end = this.at;
    while (this.text[end] === character) end += 1;
    const count = end - this.at;
    if (character === "~" && count > 2) {
      this.plain += "~".repeat(count);
      this.at = end;
      return true;
    }
    const left = this.at === 0 ? "" : lastCharacter(this.text, this.at);
    const right = end === this.text.length ? "" : String.fromCodePoint(/** @type {number} */ (this.text.codePointAt(end)));
    const node = document.createTextNode(this.text.slice(this.at, end));
    this.append(node);
    this.runs.add({ character, count, node, ...flanks(character, left, right) });
    this.at = end;
    return true;
  }

  /** @param {"[" | "!["} mark */
  open(mark) {
    const node = document.createTextNode(mark);
    this.append(node);
    this.brackets.push({ node, bottom: this.runs.last, anchors: this.anchors.length });
    if (this.brackets.length > OPEN_BRACKETS) this.brackets.shift();
    this.at += mark.length;
    return true;
  }

  close() {
    const opened = this.brackets.pop();
    if (opened === undefined) return false;
    const target = this.target(this.at + 1);
    const href = target === null ? null : safeAddress(target.address);
    if (target === null || href === null) return false;
    this.flush();
    this.runs.settle(opened.bottom);
    const made = link(href);
    // A picture becomes a link to it: the page itself loads nothing from elsewhere.
    if (opened.node.data === "![") made.className = "picture";
    // A link inside a link would lead to two places: the inner one becomes text.
    for (const inner of this.anchors.splice(opened.anchors)) inner.replaceWith(...inner.childNodes);
    while (opened.node.nextSibling !== null) made.append(opened.node.nextSibling);
    if (!made.hasChildNodes()) made.append(href);
    opened.node.replaceWith(made);
    this.anchors.push(made);
    this.brackets.length = 0;
    this.at = target.end;
    return true;
  }

  /**
   * `(address "title")` at this place; the title is dropped.
   * @param {number} from
   * @returns {{address: string, end: number} | null}
   */
  target(from) {
    if (this.text[from] !== "(") return null;
    const part = this.text.slice(from, from + LONGEST_TARGET);
    let depth = 0;
    let end = 0;
    for (; end < part.length; end += 1) {
      if (part[end] === "\\") end += 1;
      else if (part[end] === "(" && (depth += 1) > OPEN_PARENTHESES) return null;
      else if (part[end] === ")" && (depth -= 1) === 0) break;
      else if (part[end] === "\n") return null;
    }
    if (end >= part.length) return null;
    const inside = part.slice(1, end).trim();
    const angled = /^<([^<>]*)>/.exec(inside);
    const address = (angled === null ? inside.split(/\s/, 1)[0] : angled[1]).replace(/\\([!-/:-@[-`{-~])/g, "$1");
    const rest = inside.slice(angled === null ? inside.split(/\s/, 1)[0].length : angled[0].length).trim();
    if (rest !== "" && !/^(".*"|'.*'|\(.*\))$/.test(rest)) return null;
    return { address, end: from + end + 1 };
  }

  angle() {
    BREAK.lastIndex = this.at;
    if (BREAK.test(this.text)) {
      this.append(el("br"));
      this.at = BREAK.lastIndex;
      return true;
    }
    ANGLED.lastIndex = this.at;
    const found = ANGLED.exec(this.text);
    const href = found === null ? null : safeAddress(found[1]);
    if (found === null || href === null) return false;
    this.linked(href, found[1]);
    this.at = ANGLED.lastIndex;
    return true;
  }

  bare() {
    const before = this.text[this.at - 1] ?? "";
    const address = /[\p{L}\p{N}]/u.test(before) ? null : bareAddress(this.text, this.at);
    const href = address === null ? null : safeAddress(address);
    if (address === null || href === null) return false;
    this.linked(href, address);
    this.at += address.length;
    return true;
  }

  /**
   * @param {string} href
   * @param {string} text
   */
  linked(href, text) {
    const made = link(href);
    made.append(text);
    this.append(made);
    this.anchors.push(made);
  }

  entity() {
    ENTITY.lastIndex = this.at;
    const found = ENTITY.exec(this.text);
    if (found === null) return false;
    const [, decimal, hexadecimal, name] = found;
    const code = decimal !== undefined ? parseInt(decimal, 10) : parseInt(hexadecimal ?? "0", 16);
    if (name !== undefined) this.plain += NAMED[/** @type {keyof typeof NAMED} */ (name)];
    else this.plain += code === 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? "\ufffd" : String.fromCodePoint(code);
    this.at = ENTITY.lastIndex;
    return true;
  }
}

/**
 * @param {string} text
 * @param {number} end
 */
function lastCharacter(text, end) {
  const unit = text.charCodeAt(end - 1);
  return unit >= 0xdc00 && unit < 0xe000 ? text.slice(end - 2, end) : text[end - 1];
}
