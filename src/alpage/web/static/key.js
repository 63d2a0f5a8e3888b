/** The API key: gone with the tab, unless the person asks this browser to remember it. */

import { read, write } from "./settings.js";

const NAME = "alpage.key";

let current = read(NAME, "session") ?? read(NAME, "local") ?? "";

/** @returns {string} "" for none */
export function apiKey() {
  return current;
}

/** @returns {boolean} */
export function keyIsRemembered() {
  return read(NAME, "local") !== null;
}

/**
 * @param {string} key
 * @param {boolean} remember
 */
export function setApiKey(key, remember) {
  current = key;
  write(NAME, key === "" || remember ? null : key, "session");
  write(NAME, key !== "" && remember ? key : null, "local");
}
