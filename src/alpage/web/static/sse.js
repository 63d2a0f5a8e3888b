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
   * @param {string} text
   * @returns {string[]} the data of the events that this text completes
   */
  push(text) {
    const events = [];
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
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
        this.#size = 0;
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      } else if (line === "data") {
        this.#data.push("");
      }
    }
    return events;
  }
}
