/** The page's words in the person's language. */

import en from "./lang/en.js";
import fr from "./lang/fr.js";
import { read, write } from "./settings.js";

const KEPT = "alpage.language";

/** @type {Record<string, Record<string, string>>} */
export const LANGUAGES = { en, fr };

let current = chosen();

function chosen() {
  const kept = read(KEPT);
  if (kept !== null && Object.hasOwn(LANGUAGES, kept)) return kept;
  const wanted = (navigator.languages ?? [navigator.language]).map((tag) => tag.toLowerCase().split("-", 1)[0]);
  return wanted.find((tag) => Object.hasOwn(LANGUAGES, tag)) ?? "en";
}

/** @returns {string} "en" or "fr" */
export function language() {
  return current;
}

/** @param {string} tag */
export function setLanguage(tag) {
  if (!Object.hasOwn(LANGUAGES, tag)) return;
  current = tag;
  write(KEPT, tag);
}

/**
 * The string of a key, with `{name}` replaced by the value of that name.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const text = LANGUAGES[current][key];
  if (text === undefined) throw new Error(`no string ${key}`);
  return text.replace(/\{(\w+)\}/g, (mark, name) => (Object.hasOwn(values, name) ? String(values[name]) : mark));
}

/**
 * A number as people of this language write it.
 * @param {number} value
 * @param {number} [digits] after the point
 * @returns {string}
 */
export function number(value, digits = 0) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(current, options).format(value);
}

/**
 * Fill the elements below `root`: `data-t` names the string of their text, `data-t-label` of their label and tip,
 * `data-t-placeholder` of their placeholder.
 * @param {ParentNode} root
 */
export function translate(root) {
  for (const found of root.querySelectorAll("[data-t]")) {
    found.textContent = t(/** @type {HTMLElement} */ (found).dataset.t ?? "");
  }
  for (const found of root.querySelectorAll("[data-t-label]")) {
    const label = t(/** @type {HTMLElement} */ (found).dataset.tLabel ?? "");
    found.setAttribute("aria-label", label);
    if (found.localName === "button") found.setAttribute("title", label);
  }
  for (const found of root.querySelectorAll("[data-t-placeholder]")) {
    found.setAttribute("placeholder", t(/** @type {HTMLElement} */ (found).dataset.tPlaceholder ?? ""));
  }
}
