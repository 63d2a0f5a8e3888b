/** Which addresses an answer may link to, and the links themselves. */

import { el } from "../dom.js";

const KINDS = new Set(["http:", "https:", "mailto:"]);
const LONGEST = 2048;

/**
 * The address in the form that the browser will use, or null where it is no http, https or mailto
 * address: relative ones would lead into this page, and others can run something.
 * @param {string} address
 * @returns {string | null}
 */
export function safeAddress(address) {
  // Browsers drop such characters inside a scheme, people do not see them.
  if (address.length > LONGEST || /[\u0000-\u0020\u007f-\u00a0\u2028\u2029]/.test(address)) return null;
  if (/[\\"<>`]/.test(address)) return null;
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return null;
  try {
    const parsed = new URL(address);
    return KINDS.has(parsed.protocol) ? parsed.href : null;
  } catch {
    return null;
  }
}

/**
 * A link to an address that `safeAddress` has given. Its tip shows where it leads.
 * @param {string} href
 * @returns {HTMLAnchorElement}
 */
export function link(href) {
  return el("a", { href, title: href, target: "_blank", rel: "noopener noreferrer" });
}

const BARE = /https?:\/\/[^\s<>"`\u0000-\u0020\u007f-\u00a0]{1,2000}/iy;

/**
 * The bare address that begins at `at`, without the punctuation of the sentence around it.
 * @param {string} text
 * @param {number} at
 * @returns {string | null}
 */
export function bareAddress(text, at) {
  BARE.lastIndex = at;
  const found = BARE.exec(text);
  if (found === null) return null;
  let end = found[0].length;
  let open = 0;
  for (const character of found[0]) open += character === "(" ? 1 : character === ")" ? -1 : 0;
  for (; end > 0; end -= 1) {
    const last = found[0][end - 1];
    if (last === ")" && open < 0) open += 1;
    else if (!/[.,:;!?'*_~\]|]/.test(last)) break;
  }
  const address = found[0].slice(0, end);
  return /^https?:\/\/./i.test(address) ? address : null;
}
