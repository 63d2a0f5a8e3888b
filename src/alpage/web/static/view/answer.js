/** The text of an answer on the page: whole, or growing with each frame. */

import { renderMarkdown } from "../markdown/render.js";
import { MarkdownStream } from "../markdown/stream.js";
import { t } from "../i18n.js";

/** Longer than any fence that a JSON text could hold. */
const FENCE = "`".repeat(24);

/** @returns {import("../markdown/render.js").Words} */
function words() {
  return { copy: t("code.copy"), copied: t("code.copied"), code: t("code"), table: t("table") };
}

/**
 * @param {import("../tree.js").Message} message
 * @param {HTMLElement} into an empty element
 */
export function showAnswer(message, into) {
  if (message.text === "") return;
  renderMarkdown(message.json ? `${FENCE}json\n${message.text}\n${FENCE}` : message.text, into, words());
}

/** An answer under way. Text that comes between two frames is drawn at once. */
export class GrowingAnswer {
  #waiting = "";
  #frame = 0;
  #stream;

  /**
   * @param {import("../tree.js").Message} message
   * @param {HTMLElement} into an empty element
   * @param {() => void} drawn called after each drawing
   */
  constructor(message, into, drawn) {
    this.#stream = new MarkdownStream(into, words());
    this.drawn = drawn;
    if (message.json) this.#waiting = `${FENCE}json\n`;
    if (message.text !== "") this.push(message.text);
  }

  /** @param {string} text */
  push(text) {
    this.#waiting += text;
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    const text = this.#waiting;
    this.#waiting = "";
    if (text !== "") this.#stream.push(text);
    this.drawn();
  }

  /** The answer is complete, or will never be. */
  end() {
    cancelAnimationFrame(this.#frame);
    this.#draw();
    this.#stream.end();
    this.drawn();
  }
}
