/**
 * The conversation on screen and the answers under way. It changes trees, talks to the server and the store, and says
 * what has happened by events; it touches no element of the page.
 */

import { ConnectionError, ServerError, streamChat } from "./api.js";
import { apiKey } from "./key.js";
import { ANSWER_CHARACTERS } from "./limits.js";
import { chatBody } from "./request.js";
import { keepSettings, mistakes, usualSettings } from "./settings.js";
import { FullError } from "./store.js";
import { ROOT, addMessage, choose, fromRecord, newConversation, pathOf, pathTo, rename, titleOf, toRecord } from "./tree.js";

/** @typedef {import("./tree.js").Message} Message */
/** @typedef {import("./tree.js").Conversation} Conversation */

const SAVE_MS = 1500;

/**
 * Events: "conversation" (show another one, or another path of it), "message" (one came to the path), "text" (an
 * answer has grown), "state" (a message's state has changed), "list" (the kept conversations have), "notice" (something
 * to be told: a key of the strings), "key" (the server wants an API key).
 */
export class Chat extends EventTarget {
  /** @type {Map<string, {message: Message, conversation: Conversation, stop: AbortController}>} by conversation */
  #running = new Map();
  /** @type {Map<string, Promise<void>>} the saves under way, by conversation */
  #saving = new Map();
  /** @type {Set<string>} conversations whose next save has not begun yet */
  #queued = new Set();
  /** @type {Set<string>} conversations that no late save may bring back */
  #removed = new Set();

  /** @param {import("./store.js").Store | null} store null where this browser keeps nothing */
  constructor(store) {
    super();
    this.store = store;
    this.conversation = newConversation(usualSettings());
  }

  /** @returns {Message[]} */
  get path() {
    return pathOf(this.conversation);
  }

  /** Whether an answer is being written in the conversation on screen. */
  get busy() {
    return this.#running.has(this.conversation.id);
  }

  /**
   * @param {string} name
   * @param {object} [detail]
   */
  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Begin a conversation; it is kept from its first message on. */
  create() {
    this.conversation = newConversation({ ...usualSettings(), model: this.conversation.settings.model });
    this.#tell("conversation");
  }

  /** @param {string} id */
  async open(id) {
    const running = this.#running.get(id);
    if (running !== undefined) {
      this.conversation = running.conversation;
    } else {
      await this.#saving.get(id);
      const record = await this.store?.load(id);
      if (record === undefined) return;
      this.conversation = fromRecord(record);
    }
    this.#tell("conversation");
  }

  /** @param {Partial<import("./settings.js").Settings>} changes */
  set(changes) {
    Object.assign(this.conversation.settings, changes);
    keepSettings(this.conversation.settings);
    if (this.conversation.messages.size > 0) void this.#save(this.conversation);
  }

  /**
   * @param {string} id
   * @param {string} title
   */
  async rename(id, title) {
    const record = id === this.conversation.id ? null : await this.store?.load(id);
    const conversation = record ? fromRecord(record) : this.conversation;
    if (conversation.id !== id) return;
    rename(this.#running.get(id)?.conversation ?? conversation, title);
    await this.#save(this.#running.get(id)?.conversation ?? conversation);
  }

  /** @param {string} id */
  async remove(id) {
    this.#removed.add(id);
    this.#running.get(id)?.stop.abort("stopped");
    await this.#saving.get(id);
    await this.store?.remove(id);
    if (this.conversation.id === id) this.create();
    this.#tell("list");
  }

  /**
   * Say something and have it answered.
   * @param {string} text
   * @param {import("./tree.js").File[]} files
   * @returns {boolean} false where it was not sent, which a notice explains
   */
  send(text, files) {
    const last = this.path[this.path.length - 1];
    return this.#ask(last?.id ?? ROOT, text, files);
  }

  /**
   * Say something else in a message's place: a branch beside it.
   * @param {string} id
   * @param {string} text
   */
  edit(id, text) {
    const message = this.conversation.messages.get(id);
    return message !== undefined && this.#ask(message.parent, text, message.files);
  }

  /**
   * Another answer beside this one, or the first to a question that has none.
   * @param {string} id of an answer or a question
   */
  again(id) {
    const message = this.conversation.messages.get(id);
    if (message === undefined || !this.#ready()) return;
    const parent = message.role === "user" ? message.id : message.parent;
    this.#answer(parent);
  }

  /** @param {string} id */
  choose(id) {
    if (this.busy) return;
    choose(this.conversation, id);
    void this.#save(this.conversation);
    this.#tell("conversation");
  }

  /** End the answer on screen; what is written of it stays. */
  stop() {
    this.#running.get(this.conversation.id)?.stop.abort("stopped");
  }

  /** End every answer: the page is being left. */
  leave() {
    for (const { stop } of this.#running.values()) stop.abort("left");
  }

  #ready() {
    if (this.busy) return false;
    const wrong = Object.values(mistakes(this.conversation.settings))[0];
    if (wrong !== undefined) this.#tell("notice", { key: wrong, open: "settings" });
    else if (this.conversation.settings.model === "") this.#tell("notice", { key: "model.none" });
    return wrong === undefined && this.conversation.settings.model !== "";
  }

  /**
   * @param {string} parent
   * @param {string} text
   * @param {import("./tree.js").File[]} files
   */
  #ask(parent, text, files) {
    if ((text.trim() === "" && files.length === 0) || !this.#ready()) return false;
    try {
      const question = addMessage(this.conversation, parent, { role: "user", text, files });
      this.#answer(question.id);
      return true;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#tell("notice", { key: "messages.many" });
      return false;
    }
  }

  /** @param {string} parent */
  #answer(parent) {
    const { conversation } = this;
    const body = chatBody(pathTo(conversation, parent), conversation.settings);
    const fields = { role: /** @type {const} */ ("assistant"), state: /** @type {const} */ ("writing") };
    const { model, json } = conversation.settings;
    const message = addMessage(conversation, parent, { ...fields, model, json });
    conversation.updated = message.changed;
    const stop = new AbortController();
    this.#running.set(conversation.id, { message, conversation, stop });
    this.#tell("conversation");
    void this.#save(conversation);
    void this.#write(conversation, message, body, stop);
  }

  /**
   * @param {Conversation} conversation
   * @param {Message} message
   * @param {object} body
   * @param {AbortController} stop
   */
  async #write(conversation, message, body, stop) {
    const began = performance.now();
    const saving = setInterval(() => void this.#save(conversation), SAVE_MS);
    /** @type {import("./tree.js").State} */
    let state = "done";
    try {
      for await (const part of streamChat(body, { key: apiKey(), signal: stop.signal })) {
        if (part.text !== undefined) this.#grow(message, part.text, began);
        if (part.finish === "length") state = "length";
        if (part.usage !== undefined) message.figures = figures(message, part.usage, began);
        if (message.text.length > ANSWER_CHARACTERS) {
          state = "length";
          break;
        }
      }
    } catch (error) {
      state = this.#failed(message, error, stop);
    }
    clearInterval(saving);
    message.state = state;
    message.changed = Date.now();
    conversation.updated = message.changed;
    this.#running.delete(conversation.id);
    this.#tell("state", { message });
    await this.#save(conversation);
  }

  /**
   * @param {Message} message
   * @param {string} text
   * @param {number} began
   */
  #grow(message, text, began) {
    message.figures ??= { prompt: 0, cached: 0, completion: 0, first: (performance.now() - began) / 1000, total: 0 };
    message.text += text;
    message.changed = Date.now();
    this.#tell("text", { message, text });
  }

  /**
   * @param {Message} message
   * @param {unknown} error
   * @param {AbortController} stop
   * @returns {import("./tree.js").State}
   */
  #failed(message, error, stop) {
    if (stop.signal.aborted) return stop.signal.reason === "left" ? "cut" : "stopped";
    if (error instanceof ConnectionError) return "cut";
    message.error = error instanceof Error ? error.message : String(error);
    if (error instanceof ServerError && error.status === 401) this.#tell("key", { again: message.id });
    return "error";
  }

  /**
   * Keep a conversation; one save of each at a time, and at most one after it.
   * @param {Conversation} conversation
   * @returns {Promise<void>}
   */
  #save(conversation) {
    const { id } = conversation;
    const before = this.#saving.get(id) ?? Promise.resolve();
    if (this.#queued.has(id)) return before;
    this.#queued.add(id);
    const saved = before.then(() => {
      this.#queued.delete(id);
      return this.#keep(conversation);
    });
    this.#saving.set(id, saved);
    return saved;
  }

  /** @param {Conversation} conversation */
  async #keep(conversation) {
    if (this.store === null || this.#removed.has(conversation.id)) return;
    conversation.title = titleOf(conversation);
    try {
      await this.store.save(toRecord(conversation));
    } catch (error) {
      const what = error instanceof FullError ? error.what : "failed";
      this.#tell("notice", { key: `store.${what}` });
    }
    this.#tell("list");
  }
}

/**
 * @param {Message} message
 * @param {import("./api.js").Usage} usage
 * @param {number} began
 */
function figures(message, usage, began) {
  const total = (performance.now() - began) / 1000;
  return { ...usage, first: message.figures?.first ?? total, total };
}
