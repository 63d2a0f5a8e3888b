/** Emphasis: which runs of *, _ and ~ belong together, by the rules of CommonMark. */

import { el } from "../dom.js";

const DEEPEST = 16;

/**
 * A run of one character, with the text node that shows it.
 * @typedef {{character: string, count: number, length: number, opens: boolean, closes: boolean,
 *   node: Text, before: Run | null, after: Run | null}} Run
 */

const PUNCTUATION = /[\p{P}\p{S}]/u;
const SPACE = /\s/u;

/**
 * What a run between these two characters can do.
 * @param {string} character
 * @param {string} left the character before, "" at the beginning
 * @param {string} right the character after, "" at the end
 * @returns {{opens: boolean, closes: boolean}}
 */
export function flanks(character, left, right) {
  const spaceLeft = left === "" || SPACE.test(left);
  const spaceRight = right === "" || SPACE.test(right);
  const markLeft = PUNCTUATION.test(left);
  const markRight = PUNCTUATION.test(right);
  const opening = !spaceRight && (!markRight || spaceLeft || markLeft);
  const closing = !spaceLeft && (!markLeft || spaceRight || markRight);
  if (character !== "_") return { opens: opening, closes: closing };
  return { opens: opening && (!closing || markLeft), closes: closing && (!opening || markRight) };
}

/** The runs of one text in order; every operation costs the same however many there are. */
export class Runs {
  /** @type {Run | null} */
  last = null;
  /** @type {WeakMap<Node, number>} */
  #depths = new WeakMap();
  /** Nested without end, elements would exhaust the browser's own stack: the rest stays text. */
  #full = false;

  /** @param {Omit<Run, "before" | "after" | "length">} run */
  add(run) {
    const added = { ...run, length: run.count, before: this.last, after: null };
    if (this.last !== null) this.last.after = added;
    this.last = added;
  }

  /** @param {Run} run */
  #remove(run) {
    if (run.before !== null) run.before.after = run.after;
    if (run.after !== null) run.after.before = run.before;
    if (this.last === run) this.last = run.before;
  }

  /**
   * Make elements of all runs after `bottom`, and forget those runs: what found no partner stays
   * text.
   * @param {Run | null} bottom
   */
  settle(bottom) {
    /** Where a search for a partner need not go below, since one has failed there. */
    const floors = new Map();
    let closer = bottom === null ? this.#first() : bottom.after;
    while (closer !== null && !this.#full) {
      closer = closer.closes ? this.#close(closer, bottom, floors) : closer.after;
    }
    while (this.last !== null && this.last !== bottom) this.#remove(this.last);
  }

  #first() {
    // Every run on the way is forgotten by the `settle` that asked: no run is walked over twice.
    let run = this.last;
    while (run !== null && run.before !== null) run = run.before;
    return run;
  }

  /**
   * Find the partner of a closing run; returns the run to look at next.
   * @param {Run} closer
   * @param {Run | null} bottom
   * @param {Map<string, Run | null>} floors
   * @returns {Run | null}
   */
  #close(closer, bottom, floors) {
    const key = `${closer.character}${closer.opens}${closer.length % 3}${closer.character === "~" ? closer.length : ""}`;
    const floor = floors.has(key) ? floors.get(key) : bottom;
    let opener = closer.before;
    while (opener !== null && opener !== floor && opener !== bottom && !pairs(opener, closer)) opener = opener.before;
    if (opener === null || opener === floor || opener === bottom) {
      floors.set(key, closer.before);
      const next = closer.after;
      if (!closer.opens) this.#remove(closer);
      return next;
    }
    while (closer.before !== opener && closer.before !== null) this.#remove(closer.before);
    const used = closer.character === "~" ? closer.count : opener.count >= 2 && closer.count >= 2 ? 2 : 1;
    if (!this.#wrap(opener, closer, used)) return null;
    for (const run of [opener, closer]) {
      run.count -= used;
      run.node.data = run.character.repeat(run.count);
    }
    if (opener.count === 0) this.#drop(opener);
    if (closer.count > 0) return closer;
    const next = closer.after;
    this.#drop(closer);
    return next;
  }

  /** @param {Run} run */
  #drop(run) {
    this.#remove(run);
    run.node.remove();
  }

  /**
   * @param {Run} opener
   * @param {Run} closer
   * @param {number} used
   */
  #wrap(opener, closer, used) {
    const inside = [];
    let depth = 0;
    for (let node = opener.node.nextSibling; node !== null && node !== closer.node; node = node.nextSibling) {
      inside.push(node);
      depth = Math.max(depth, this.#depths.get(node) ?? 0);
    }
    this.#full = depth >= DEEPEST;
    if (this.#full) return false;
    const wrapped = el(opener.character === "~" ? "del" : used === 2 ? "strong" : "em", {}, ...inside);
    this.#depths.set(wrapped, depth + 1);
    opener.node.after(wrapped);
    return true;
  }
}

/**
 * @param {Run} opener
 * @param {Run} closer
 */
function pairs(opener, closer) {
  if (!opener.opens || opener.character !== closer.character) return false;
  if (opener.character === "~") return opener.count === closer.count;
  if (!opener.closes && !closer.opens) return true;
  return (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}
