/** Reads an answer to screen readers while it is written: by sentences, since by tokens it would be noise. */

import { el } from "../dom.js";
import { t } from "../i18n.js";

const MOST = 30;
const SHORTEST = 60;

/** A live region that gets sentence after sentence. */
export class Announcer {
  #text = "";

  /** @param {HTMLElement} region with aria-live */
  constructor(region) {
    this.region = region;
  }

  /** Forget what was said. */
  clear() {
    this.#text = "";
    this.region.replaceChildren();
  }

  /** An answer begins. */
  begin() {
    this.clear();
    this.#say(t("live.writing"));
  }

  /** @param {string} text */
  add(text) {
    this.#text += text;
    if (this.#text.length < SHORTEST || !/[.!?\u2026\n][\s)"'\u00bb]*$/.test(this.#text.slice(-8))) return;
    this.#say(this.#text);
    this.#text = "";
  }

  /** @param {string} last what to say after the rest of the answer */
  end(last) {
    this.#say(this.#text);
    this.#text = "";
    this.#say(last);
  }

  /** @param {string} text */
  #say(text) {
    if (text.trim() === "") return;
    this.region.append(el("p", {}, text.trim()));
    while (this.region.childElementCount > MOST) this.region.firstElementChild?.remove();
  }
}
