/** Text files that a message takes along. */

import { FILES, FILE_BYTES, TITLE_CHARACTERS } from "./limits.js";

/** A file that is refused; `key` names the string that says why. */
export class AttachError extends Error {
  /**
   * @param {string} key
   * @param {string} name
   */
  constructor(key, name) {
    super(`${key}: ${name}`);
    this.key = key;
    this.name = name;
  }
}

/**
 * Read a file's text, or throw an AttachError: it is too large, or no text in UTF-8 or UTF-16.
 * @param {globalThis.File} file
 * @param {number} already how many files the message has
 * @returns {Promise<import("./tree.js").File>}
 */
export async function readTextFile(file, already) {
  const name = file.name.slice(0, TITLE_CHARACTERS);
  if (already >= FILES) throw new AttachError("attach.many", name);
  if (file.size > FILE_BYTES) throw new AttachError("attach.large", name);
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new AttachError("attach.unread", name); // a folder, or gone since it was chosen
  }
  const text = decoded(bytes);
  if (text === null) throw new AttachError("attach.binary", name);
  return { name, text };
}

/**
 * @param {Uint8Array} bytes
 * @returns {string | null}
 */
function decoded(bytes) {
  const [first, second] = bytes;
  const little = first === 0xff && second === 0xfe;
  const big = first === 0xfe && second === 0xff;
  try {
    const text = new TextDecoder(little ? "utf-16le" : big ? "utf-16be" : "utf-8", { fatal: true }).decode(bytes);
    return text.includes("\u0000") ? null : text;
  } catch {
    return null;
  }
}
