/**
 * An answer that grows. What is finished is rendered once and never touched again; only the last block, the last
 * item of a list included, is rendered anew when text arrives. A long last block is rendered anew only when it has
 * grown by a quarter, and shows the rest as it came until then; code is only ever added to. So all the work
 * together grows with the answer's length, not with its square.
 */

import { closesFence, codeLine, parseBlocks, toLines } from "./blocks.js";
import { appendBlocks, codeBlock } from "./render.js";

const SHORT = 2048;
const GROWTH = 1.25;
const CODE_NODE = 4096;

/** An answer being written into an element. */
export class MarkdownStream {
  /** Text of the last block, and of nothing before it. */
  #open = "";
  /** How much of `#open` was rendered when it was last looked at. */
  #drawn = 0;
  /** @type {ChildNode[]} */
  #provisional = [];
  /** @type {{fence: import("./blocks.js").Fence, code: HTMLElement, rest: Text, midLine: boolean} | null} */
  #code = null;
  #cut = false;

  /** Characters parsed and rendered so far: the work that was done. */
  work = 0;

  /**
   * @param {HTMLElement} host an empty element
   * @param {import("./render.js").Words} words
   */
  constructor(host, words) {
    this.host = host;
    this.words = words;
  }

  /**
   * Add text and show it.
   * @param {string} text
   */
  push(text) {
    // A \r\n that comes in two parts would be two line ends.
    if (this.#cut) text = `\r${text}`;
    this.#cut = text.endsWith("\r");
    const arrived = (this.#cut ? text.slice(0, -1) : text).replace(/\r\n?/g, "\n");
    this.#open += arrived;
    this.#draw(false, arrived);
  }

  /** The text is complete. */
  end() {
    if (this.#cut) this.#open += "\n";
    this.#cut = false;
    this.#draw(true);
  }

  /**
   * @param {boolean} last
   * @param {string} [arrived]
   */
  #draw(last, arrived = "") {
    if (this.#code !== null && !this.#feed(this.#code, last)) return;
    if (!last && this.#drawn > SHORT && this.#open.length < this.#drawn * GROWTH) {
      this.#showTail(arrived);
      return;
    }
    const lines = toLines(this.#open);
    this.work += this.#open.length;
    this.#clear();
    const blocks = parseBlocks(lines);
    const final = last ? blocks.length : this.#certain(blocks, lines);
    appendBlocks(blocks.slice(0, final), this.host, this.words);
    // Where there is no block, spaces may be the beginning of one.
    const from = blocks[final]?.begin ?? lines.length - 1;
    this.#open = last && final === blocks.length ? "" : lines.slice(from).join("\n");
    this.#drawn = this.#open.length;
    const unfinished = blocks[final];
    if (unfinished === undefined) return;
    if (final === blocks.length - 1 && this.#opensCode(unfinished, lines)) {
      this.#draw(last);
      return;
    }
    this.#provide(blocks.slice(final));
  }

  /**
   * How many blocks no later text can change. A block is certain when the next one has begun, and a beginning is
   * certain when its line is whole: "-" may become "---", and a heading's line may go on.
   * @param {import("./blocks.js").Block[]} blocks
   * @param {string[]} lines
   */
  #certain(blocks, lines) {
    let final = blocks.length - 1;
    if (final > 0 && blocks[final].begin === lines.length - 1) final -= 1;
    return Math.max(final, 0);
  }

  /**
   * Render blocks that will be rendered again.
   * @param {import("./blocks.js").Block[]} blocks
   */
  #provide(blocks) {
    const before = this.host.lastElementChild;
    const inner = before === null ? 0 : before.childNodes.length;
    const count = this.host.childNodes.length;
    appendBlocks(blocks, this.host, this.words);
    const joined = before !== null && /^[ou]l$/.test(before.localName) ? [...tail(before, inner)] : [];
    this.#provisional = [...joined, ...tail(this.host, count)];
  }

  #clear() {
    for (const node of this.#provisional) node.remove();
    this.#provisional = [];
  }

  /**
   * Show what has arrived since the last block was rendered as it is, after the block.
   * @param {string} arrived
   */
  #showTail(arrived) {
    const known = this.#provisional[this.#provisional.length - 1];
    if (known instanceof Text) {
      known.appendData(arrived);
      return;
    }
    const shown = document.createTextNode(arrived);
    this.host.append(shown);
    this.#provisional.push(shown);
  }

  /**
   * Where the last block is code whose fence is open and whose first line is whole: begin adding to it.
   * @param {import("./blocks.js").Block} block
   * @param {string[]} lines
   */
  #opensCode(block, lines) {
    if (block.kind !== "code" || block.closed || block.fence === undefined || block.begin >= lines.length - 1) return false;
    const made = codeBlock(block.language ?? "", this.words);
    this.host.append(made.element);
    const rest = document.createTextNode("");
    made.code.append(rest);
    this.#code = { fence: block.fence, code: made.code, rest, midLine: false };
    this.#open = this.#open.slice(this.#open.indexOf("\n") + 1);
    return true;
  }

  /**
   * Add what has arrived to the open code block; true when its fence has closed.
   * @param {{fence: import("./blocks.js").Fence, code: HTMLElement, rest: Text, midLine: boolean}} code
   * @param {boolean} last
   */
  #feed(code, last) {
    this.work += this.#open.length;
    const lines = this.#open.split("\n");
    const partial = /** @type {string} */ (lines.pop());
    let text = "";
    for (const [at, line] of lines.entries()) {
      if (!code.midLine && closesFence(line, code.fence)) {
        this.#addCode(code, text);
        this.#open = [...lines.slice(at + 1), partial].join("\n");
        this.#endCode(code);
        return true;
      }
      text += `${code.midLine ? line : codeLine(line, code.fence)}\n`;
      code.midLine = false;
    }
    if (last) {
      const closes = !code.midLine && closesFence(partial, code.fence);
      this.#addCode(code, closes ? text : text + (code.midLine ? partial : codeLine(partial, code.fence)));
      this.#open = "";
      this.#endCode(code);
      return false;
    }
    this.#addCode(code, text);
    this.#open = partial;
    if (partial.length > SHORT) {
      this.#addCode(code, code.midLine ? partial : codeLine(partial, code.fence));
      this.#open = "";
      code.midLine = true;
    }
    // A line that may yet close the fence is not shown as code.
    const marks = this.#open.trim();
    code.rest.data = marks === code.fence.mark.repeat(marks.length) ? "" : this.#open;
    return false;
  }

  /**
   * @param {{code: HTMLElement, rest: Text}} code
   * @param {string} text
   */
  #addCode({ code, rest }, text) {
    if (text === "") return;
    const before = rest.previousSibling;
    if (before instanceof Text && before.length < CODE_NODE) before.appendData(text);
    else rest.before(text);
  }

  /** @param {{code: HTMLElement, rest: Text}} code */
  #endCode({ code, rest }) {
    rest.remove();
    const end = code.lastChild;
    if (end instanceof Text && end.data.endsWith("\n")) end.deleteData(end.length - 1, 1);
    this.#code = null;
    this.#drawn = 0;
  }
}

/**
 * The children of an element from number `from` on.
 * @param {Element} element
 * @param {number} from
 */
function tail(element, from) {
  return [...element.childNodes].slice(from);
}
