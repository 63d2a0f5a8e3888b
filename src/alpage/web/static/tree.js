/**
 * A conversation as a tree: each message has one parent, a parent any number of answers or variants, of which one is
 * chosen. What is on screen is the path from the root along the choices. Nothing is ever taken out of a tree.
 */

import { CONVERSATION_MESSAGES, TITLE_CHARACTERS } from "./limits.js";

/**
 * `state`: "writing" while it is written; "done", "length" (a limit ended it), "stopped" (the person did), "cut" (the
 * connection broke), "error" (the server said `error`). `json`: an answer of a schema, shown as it is.
 * @typedef {"writing" | "done" | "length" | "stopped" | "cut" | "error"} State
 * @typedef {{name: string, text: string}} File
 * @typedef {{prompt: number, cached: number, completion: number, first: number, total: number}} Figures tokens, and
 *   seconds to the first text and to the end
 * @typedef {{id: string, parent: string, role: "user" | "assistant", text: string, files: File[], state: State,
 *   error: string, model: string, json: boolean, figures: Figures | null, changed: number}} Message
 * @typedef {{id: string, title: string, named: boolean, created: number, updated: number,
 *   settings: import("./settings.js").Settings, messages: Map<string, Message>, children: Map<string, string[]>,
 *   chosen: Map<string, string>}} Conversation
 */

/** The parent of first messages. */
export const ROOT = "";

/** @returns {string} */
export function newId() {
  // randomUUID exists only where the page came over HTTPS or from this machine.
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {import("./settings.js").Settings} settings
 * @returns {Conversation}
 */
export function newConversation(settings) {
  const now = Date.now();
  const maps = { messages: new Map(), children: new Map(), chosen: new Map() };
  return { id: newId(), title: "", named: false, created: now, updated: now, settings, ...maps };
}

/**
 * Put a message into the tree and choose it.
 * @param {Conversation} conversation
 * @param {string} parent
 * @param {Partial<Message> & {role: "user" | "assistant"}} fields
 * @returns {Message}
 */
export function addMessage(conversation, parent, fields) {
  if (parent !== ROOT && !conversation.messages.has(parent)) throw new Error(`no message ${parent}`);
  if (conversation.messages.size >= CONVERSATION_MESSAGES) throw new RangeError("too many messages");
  const plain = { text: "", files: [], error: "", model: "", json: false, figures: null, changed: Date.now() };
  const message = /** @type {Message} */ ({ id: newId(), state: "done", ...plain, ...fields, parent });
  hang(conversation, message);
  choose(conversation, message.id);
  return message;
}

/**
 * @param {Conversation} conversation
 * @param {Message} message
 */
function hang(conversation, message) {
  conversation.messages.set(message.id, message);
  const brothers = conversation.children.get(message.parent);
  if (brothers === undefined) conversation.children.set(message.parent, [message.id]);
  else brothers.push(message.id);
}

/**
 * The messages on screen, first to last.
 * @param {Conversation} conversation
 * @returns {Message[]}
 */
export function pathOf(conversation) {
  const path = [];
  let at = ROOT;
  for (;;) {
    const variants = conversation.children.get(at);
    if (variants === undefined) return path;
    const chosen = conversation.chosen.get(at);
    at = chosen !== undefined && variants.includes(chosen) ? chosen : variants[variants.length - 1];
    path.push(/** @type {Message} */ (conversation.messages.get(at)));
  }
}

/**
 * The messages from the first to this one.
 * @param {Conversation} conversation
 * @param {string} id
 * @returns {Message[]}
 */
export function pathTo(conversation, id) {
  const path = [];
  for (let at = conversation.messages.get(id); at !== undefined; at = conversation.messages.get(at.parent)) path.push(at);
  return path.reverse();
}

/**
 * The variants of a message, itself among them.
 * @param {Conversation} conversation
 * @param {string} id
 * @returns {string[]}
 */
export function variantsOf(conversation, id) {
  const message = conversation.messages.get(id);
  return (message && conversation.children.get(message.parent)) ?? [];
}

/**
 * Show this variant.
 * @param {Conversation} conversation
 * @param {string} id
 */
export function choose(conversation, id) {
  const message = conversation.messages.get(id);
  if (message !== undefined) conversation.chosen.set(message.parent, id);
}

/**
 * The title of a conversation that nobody has named: how its first message begins.
 * @param {Conversation} conversation
 * @returns {string}
 */
export function titleOf(conversation) {
  if (conversation.named) return conversation.title;
  const first = pathOf(conversation)[0];
  if (first === undefined) return "";
  const text = (first.text.trim() || first.files[0]?.name || "").replace(/\s+/g, " ");
  return text.length > 60 ? `${[...text].slice(0, 57).join("")}\u2026` : text;
}

/**
 * @param {Conversation} conversation
 * @param {string} title
 */
export function rename(conversation, title) {
  conversation.title = title.replace(/\s+/g, " ").trim().slice(0, TITLE_CHARACTERS);
  conversation.named = conversation.title !== "";
}

/**
 * A conversation as a plain value, parents before their children.
 * @param {Conversation} conversation
 */
export function toRecord(conversation) {
  const { id, named, created, updated, settings } = conversation;
  const kept = { id, title: titleOf(conversation), named, created, updated, settings };
  return { ...kept, messages: [...conversation.messages.values()], chosen: [...conversation.chosen] };
}

/**
 * The conversation of a record of `toRecord`. A message that was being written when the page was left is cut.
 * @param {ReturnType<typeof toRecord>} record
 * @returns {Conversation}
 */
export function fromRecord(record) {
  const { messages, chosen, ...rest } = record;
  const made = { ...rest, messages: new Map(), children: new Map(), chosen: new Map(chosen) };
  for (const message of messages) {
    hang(made, message.state === "writing" ? { ...message, state: "cut" } : message);
  }
  return made;
}

/**
 * Both records of one conversation that two windows have changed: every message of either, the newer of each.
 * @param {ReturnType<typeof toRecord>} own
 * @param {ReturnType<typeof toRecord>} other
 * @returns {ReturnType<typeof toRecord>}
 */
export function merged(own, other) {
  const messages = new Map(other.messages.map((message) => [message.id, message]));
  for (const message of own.messages) {
    const known = messages.get(message.id);
    if (known === undefined || known.changed <= message.changed) messages.set(message.id, message);
  }
  // Each list has parents before children, and what only `own` has hangs below what either has.
  return { ...own, messages: [...messages.values()], chosen: [...new Map([...other.chosen, ...own.chosen])] };
}
