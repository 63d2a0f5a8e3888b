/**
 * Lines into blocks: what CommonMark and GitHub's tables have and models write. Left out on purpose:
 * HTML (it is text here), headings by underlining (`---` is always a rule), code by indentation and links
 * by reference.
 */

/**
 * `begin` and `end` count lines: a block is lines[begin] to lines[end - 1]. `inside` holds the lines of what the block
 * contains, without the marks of the block itself. `closed`: a code block's fence has ended.
 * @typedef {{kind: "paragraph" | "heading" | "code" | "quote" | "item" | "table" | "rule",
 *   begin: number, end: number, inside: string[], level?: number, language?: string, closed?: boolean, fence?: Fence,
 *   ordered?: boolean, number?: number, rows?: string[][], align?: string[]}} Block
 * @typedef {{mark: string, length: number, indent: number, language: string}} Fence
 */

const MOST_COLUMNS = 64;
const TAB = 4;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const FENCE = /^( {0,3})(`{3,}|~{3,})(.*)$/;

/**
 * The fence that a line opens, or null.
 * @param {string} line
 * @returns {Fence | null}
 */
export function openedFence(line) {
  const found = FENCE.exec(line);
  if (found === null || (found[2][0] === "`" && found[3].includes("`"))) return null;
  const language = found[3].trim().split(/[\s{]/, 1)[0].slice(0, 40);
  return { mark: found[2][0], length: found[2].length, indent: found[1].length, language };
}

/**
 * Whether a line closes this fence.
 * @param {string} line
 * @param {Fence} fence
 * @returns {boolean}
 */
export function closesFence(line, fence) {
  const text = line.trim();
  return text.length >= fence.length && indentOf(line) < 4 && text === fence.mark.repeat(text.length);
}

/**
 * A line of code without the indentation that its fence has.
 * @param {string} line
 * @param {Fence} fence
 * @returns {string}
 */
export function codeLine(line, fence) {
  return outdented(line, fence.indent);
}

/** @param {string} line */
function indentOf(line) {
  let indent = 0;
  for (let at = 0; line[at] === " " || line[at] === "\t"; at += 1) indent += line[at] === " " ? 1 : TAB;
  return indent;
}

/**
 * A line without so many columns of its indentation; the rest of it, tabs included, stays.
 * @param {string} line
 * @param {number} columns
 */
function outdented(line, columns) {
  let at = 0;
  for (; columns > 0 && (line[at] === " " || line[at] === "\t"); at += 1) columns -= line[at] === " " ? 1 : TAB;
  return columns < 0 ? " ".repeat(-columns) + line.slice(at) : line.slice(at);
}

/**
 * A line with spaces for the tabs at its beginning.
 * @param {string} line
 */
function flat(line) {
  return line.replace(/^[ \t]*\t/, (indent) => " ".repeat(indentOf(indent)));
}

/** @param {string} line */
function blank(line) {
  return line.trim() === "";
}

/**
 * The blocks of these lines in order; blank lines lie between them.
 * @param {string[]} lines
 * @returns {Block[]}
 */
export function parseBlocks(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (blank(lines[at])) {
      at += 1;
      continue;
    }
    const block = blockAt(lines, at);
    blocks.push(block);
    at = block.end;
  }
  return blocks;
}

/**
 * A text's lines.
 * @param {string} text
 * @returns {string[]}
 */
export function toLines(text) {
  return text.split(/\r\n|\n|\r/);
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {Block}
 */
function blockAt(lines, at) {
  const line = flat(lines[at]);
  const fence = openedFence(line);
  if (fence !== null) return code(lines, at, fence);
  if (RULE.test(line)) return { kind: "rule", begin: at, end: at + 1, inside: [] };
  const level = headingLevel(line);
  if (level > 0) return heading(line, at, level);
  if (quoted(line)) return quote(lines, at);
  const mark = ITEM.exec(line);
  if (mark !== null) return item(lines, at, mark);
  return tableAt(lines, at) ?? paragraph(lines, at);
}

/** @param {string} line */
function headingLevel(line) {
  const begin = indentOf(line);
  if (begin > 3) return 0;
  let end = begin;
  while (line[end] === "#") end += 1;
  const level = end - begin;
  return level <= 6 && (end === line.length || line[end] === " ") ? level : 0;
}

/**
 * @param {string} line
 * @param {number} at
 * @param {number} level
 * @returns {Block}
 */
function heading(line, at, level) {
  const text = line.trim().slice(level).trim();
  let end = text.length;
  while (end > 0 && text[end - 1] === "#") end -= 1;
  const inside = end === 0 || text[end - 1] === " " ? text.slice(0, end).trim() : text;
  return { kind: "heading", begin: at, end: at + 1, inside: [inside], level };
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {Fence} fence
 * @returns {Block}
 */
function code(lines, at, fence) {
  let end = at + 1;
  while (end < lines.length && !closesFence(lines[end], fence)) end += 1;
  const inside = lines.slice(at + 1, end).map((line) => codeLine(line, fence));
  const closed = end < lines.length;
  return { kind: "code", begin: at, end: closed ? end + 1 : end, inside, language: fence.language, closed, fence };
}

/** @param {string} line */
function quoted(line) {
  return /^ {0,3}>/.test(line);
}

/**
 * Whether a line begins a block of its own where a paragraph runs.
 * @param {string} raw
 */
function interrupts(raw) {
  const line = flat(raw);
  if (blank(line) || quoted(line) || RULE.test(line)) return true;
  if (headingLevel(line) > 0 || openedFence(line) !== null) return true;
  const mark = ITEM.exec(line);
  // "2024. That was the year" goes on with a sentence; "1." begins a list.
  return mark !== null && mark[3] !== "" && (!/^\d/.test(mark[2]) || parseInt(mark[2], 10) === 1);
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {Block}
 */
function quote(lines, at) {
  const inside = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (quoted(line)) inside.push(line.trimStart().slice(1).replace(/^ /, ""));
    else if (end > at && !interrupts(line) && !blank(inside[inside.length - 1])) inside.push(line);
    else break;
  }
  return { kind: "quote", begin: at, end, inside };
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {RegExpExecArray} mark
 * @returns {Block}
 */
function item(lines, at, mark) {
  const outer = mark[1].length;
  const gap = mark[3].length;
  const width = outer + mark[2].length + (gap >= 1 && gap <= 4 ? gap : 1);
  const inside = [flat(lines[at]).slice(width)];
  let end = at + 1;
  let spaced = false;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const indent = indentOf(line);
    if (blank(line)) {
      spaced = true;
    } else if (indent >= width || nested(line, indent, outer)) {
      spaced = false;
    } else if (spaced || interrupts(line) || ITEM.test(flat(line))) {
      break;
    }
    inside.push(outdented(line, width));
  }
  while (blank(lines[end - 1]) && end > at + 1) end -= 1;
  const ordered = /^\d/.test(mark[2]);
  const block = { begin: at, end, inside: inside.slice(0, end - at), ordered };
  return { kind: "item", ...block, number: ordered ? parseInt(mark[2], 10) : 0 };
}

/**
 * Whether a line belongs to an item because it is a list indented by two, as models write them.
 * @param {string} line
 * @param {number} indent
 * @param {number} outer
 */
function nested(line, indent, outer) {
  return indent >= outer + 2 && ITEM.test(flat(line));
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {Block}
 */
function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !interrupts(lines[end]) && tableAt(lines, end, 1) === null) end += 1;
  return { kind: "paragraph", begin: at, end, inside: lines.slice(at, end) };
}

/**
 * The table that begins here, or null.
 * @param {string[]} lines
 * @param {number} at
 * @param {number} [most] rows to read at most
 * @returns {Block | null}
 */
function tableAt(lines, at, most = Infinity) {
  const rule = lines[at + 1];
  if (rule === undefined || !lines[at].includes("|") || !/^[\s:|-]+$/.test(rule) || !rule.includes("-")) return null;
  const head = cells(lines[at]);
  const marks = cells(rule);
  if (head.length !== marks.length || head.length > MOST_COLUMNS) return null;
  if (!marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  const align = marks.map((mark) => alignment(mark.startsWith(":"), mark.endsWith(":")));
  const rows = [head];
  let end = at + 2;
  for (; end < lines.length && rows.length < most && lines[end].includes("|") && !interrupts(lines[end]); end += 1) {
    rows.push(cells(lines[end]).slice(0, head.length));
  }
  return { kind: "table", begin: at, end, inside: [], rows, align };
}

/**
 * @param {boolean} left
 * @param {boolean} right
 */
function alignment(left, right) {
  if (left && right) return "center";
  return right ? "right" : "left";
}

/**
 * The cells of a row; `\|` is a stroke inside a cell.
 * @param {string} line
 * @returns {string[]}
 */
function cells(line) {
  const found = [""];
  for (const part of line.trim().split(/(\\\||\|)/)) {
    if (part === "|") found.push("");
    else found[found.length - 1] += part === "\\|" ? "|" : part;
  }
  if (found[0].trim() === "") found.shift();
  if (found.length > 0 && found[found.length - 1].trim() === "" && line.trimEnd().endsWith("|")) found.pop();
  return found.map((cell) => cell.trim());
}
