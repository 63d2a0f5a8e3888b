/** Conversations to a JSON file and back. A file is somebody's: every value in it is checked. */

import { CONVERSATION_MESSAGES, FILES, KEPT_BYTES, TITLE_CHARACTERS } from "./limits.js";
import { asSettings } from "./settings.js";
import { ROOT, newId } from "./tree.js";

/** @typedef {import("./store.js").Record} Record */

const FORMAT = "alpage.conversations";
const VERSION = 1;
const STATES = ["done", "length", "stopped", "cut", "error"];

/** A file that cannot be read; `key` names the string that says why. */
export class TransferError extends Error {
  /** @param {string} key */
  constructor(key) {
    super(key);
    this.key = key;
  }
}

/**
 * @param {Record[]} records
 * @returns {string} JSON
 */
export function exported(records) {
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations: records });
}

/**
 * The conversations of a file, under ids of their own: nothing that is kept already is overwritten.
 * @param {globalThis.File} file
 * @returns {Promise<Record[]>}
 */
export async function imported(file) {
  // Whatever was exported can come back, also through an editor that has set it in order.
  if (file.size > 2 * KEPT_BYTES) throw new TransferError("import.large");
  let value;
  try {
    value = JSON.parse(await file.text());
  } catch {
    throw new TransferError("import.json");
  }
  if (value?.format !== FORMAT || !Array.isArray(value.conversations)) throw new TransferError("import.format");
  if (value.version !== VERSION) throw new TransferError("import.version");
  return value.conversations.map(asRecord);
}

/**
 * @param {any} value
 * @returns {Record}
 */
function asRecord(value) {
  if (!Array.isArray(value?.messages) || value.messages.length > CONVERSATION_MESSAGES) {
    throw new TransferError("import.format");
  }
  /** @type {Map<string, string>} ids in the file to new ones */
  const ids = new Map([[ROOT, ROOT]]);
  const messages = value.messages.map((/** @type {any} */ message) => asMessage(message, ids));
  const pairs = Array.isArray(value.chosen) ? value.chosen.filter(Array.isArray) : [];
  const chosen = pairs.map((/** @type {any[]} */ pair) => [ids.get(pair[0]), ids.get(pair[1])]);
  const now = Date.now();
  return {
    id: newId(),
    title: asText(value.title).slice(0, TITLE_CHARACTERS),
    named: value.named === true,
    created: asNumber(value.created) || now,
    updated: asNumber(value.updated) || now,
    settings: asSettings(value.settings),
    messages,
    chosen: chosen.filter((/** @type {any[]} */ pair) => pair[0] !== undefined && pair[1] !== undefined),
  };
}

/**
 * @param {any} value
 * @param {Map<string, string>} ids
 * @returns {import("./tree.js").Message}
 */
function asMessage(value, ids) {
  const parent = typeof value?.parent === "string" ? ids.get(value.parent) : undefined;
  // A parent has to come first: so no circle can be made.
  if (parent === undefined || typeof value.id !== "string" || ids.has(value.id)) throw new TransferError("import.format");
  if (value.role !== "user" && value.role !== "assistant") throw new TransferError("import.format");
  const id = newId();
  ids.set(value.id, id);
  return {
    id,
    parent,
    role: value.role,
    text: asText(value.text),
    files: (Array.isArray(value.files) ? value.files : []).slice(0, FILES).map(asFile),
    state: STATES.includes(value.state) ? value.state : "done",
    error: asText(value.error),
    model: asText(value.model),
    json: value.json === true,
    figures: asFigures(value.figures),
    changed: asNumber(value.changed),
  };
}

/** @param {any} value */
function asFile(value) {
  return { name: asText(value?.name).slice(0, TITLE_CHARACTERS), text: asText(value?.text) };
}

/** @param {any} value */
function asFigures(value) {
  if (value === null || typeof value !== "object") return null;
  const { prompt, cached, completion, first, total } = value;
  return {
    prompt: asNumber(prompt),
    cached: asNumber(cached),
    completion: asNumber(completion),
    first: asNumber(first),
    total: asNumber(total),
  };
}

/** @param {unknown} value */
function asText(value) {
  return typeof value === "string" ? value : "";
}

/** @param {unknown} value */
function asNumber(value) {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : 0;
}
