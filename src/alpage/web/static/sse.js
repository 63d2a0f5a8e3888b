/** Server-sent events out of the pieces in which a body arrives. */

import { EVENT_CHARACTERS } from "./limits.js";

/** Takes text as it comes, gives the data of each event that is complete. */
export class EventParser {
  #line = "";
  /** @type {string[]} */
  #data = [];
  #size = 0;
  #afterReturn = false;

  /**
   * The data of each event that this text completes, one by one: what comes before a fault still counts.
   * @param {string} text
   * @returns {Generator<string, void, void>}
   */
  *push(text) {
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    if (text !== "") this.#afterReturn = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    for (const [at, part] of lines.entries()) {
      this.#line += part;
      this.#size += part.length;
      if (this.#size > EVENT_CHARACTERS) throw new RangeError("an event of the stream is too large");
      if (at === lines.length - 1) break;
      const line = this.#line;
      this.#line = "";
      if (line === "") {
        const data = this.#data;
        this.#data = [];
        this.#size = 0;
        if (data.length > 0) yield data.join("\n");
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      } else if (line === "data") {
        this.#data.push("");
      }
    }
  }
}
