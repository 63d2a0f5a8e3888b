/**
 * Conversations kept in this browser (IndexedDB), within a bound. What does not fit is refused and told, never kept
 * at the cost of something older.
 */

import { CONVERSATION_BYTES, KEPT_BYTES } from "./limits.js";
import { merged } from "./tree.js";

/**
 * @typedef {{id: string, title: string, updated: number, bytes: number}} Entry
 * @typedef {ReturnType<typeof import("./tree.js").toRecord>} Record
 */

/** There is no room: `what` is "all" where everything together, "one" where one conversation is too large. */
export class FullError extends Error {
  /** @param {"all" | "one"} what */
  constructor(what) {
    super(`no room: ${what}`);
    this.what = what;
  }
}

const ENTRIES = "entries";
const RECORDS = "records";

/** The conversations of this browser. Every method rejects where the browser keeps nothing. */
export class Store {
  /** @type {IDBDatabase} */
  #database;
  #channel = new BroadcastChannel("alpage");

  /** @param {IDBDatabase} database */
  constructor(database) {
    this.#database = database;
    // Another window with a newer version of this page waits for this one to let go.
    database.onversionchange = () => database.close();
  }

  /**
   * @param {string} [name]
   * @returns {Promise<Store>}
   */
  static open(name = "alpage") {
    return new Promise((resolve, reject) => {
      const opening = indexedDB.open(name, 1);
      opening.onupgradeneeded = () => {
        opening.result.createObjectStore(ENTRIES, { keyPath: "id" });
        opening.result.createObjectStore(RECORDS, { keyPath: "id" });
      };
      opening.onsuccess = () => resolve(new Store(opening.result));
      opening.onerror = () => reject(opening.error);
      opening.onblocked = () => reject(new Error("another window holds the conversations"));
    });
  }

  /**
   * Call this when another window has changed something.
   * @param {() => void} listener
   */
  onChange(listener) {
    this.#channel.onmessage = listener;
  }

  /**
   * Every conversation, the latest first.
   * @returns {Promise<Entry[]>}
   */
  async entries() {
    const transaction = this.#database.transaction(ENTRIES);
    /** @type {Entry[]} */
    const entries = await result(transaction.objectStore(ENTRIES).getAll());
    return entries.sort((one, other) => other.updated - one.updated);
  }

  /**
   * @param {string} id
   * @returns {Promise<Record | undefined>}
   */
  load(id) {
    return result(this.#database.transaction(RECORDS).objectStore(RECORDS).get(id));
  }

  /**
   * Keep a conversation. What another window has added to it meanwhile is kept too.
   * @param {Record} record
   * @returns {Promise<void>}
   */
  async save(record) {
    const transaction = this.#database.transaction([ENTRIES, RECORDS], "readwrite");
    const done = completion(transaction);
    try {
      const records = transaction.objectStore(RECORDS);
      const entries = transaction.objectStore(ENTRIES);
      const known = await result(records.get(record.id));
      const whole = known === undefined ? record : merged(record, known);
      const bytes = sizeOf(whole);
      if (bytes > CONVERSATION_BYTES) throw new FullError("one");
      /** @type {Entry[]} */
      const all = await result(entries.getAll());
      const others = all.filter((entry) => entry.id !== record.id).reduce((sum, entry) => sum + entry.bytes, 0);
      if (others + bytes > KEPT_BYTES) throw new FullError("all");
      records.put(whole);
      entries.put({ id: whole.id, title: whole.title, updated: whole.updated, bytes });
    } catch (error) {
      transaction.abort();
      await done.catch(() => undefined);
      throw full(error);
    }
    await done.catch((error) => { throw full(error); });
    this.#channel.postMessage("changed");
  }

  /**
   * @param {string} id
   * @returns {Promise<void>}
   */
  async remove(id) {
    const transaction = this.#database.transaction([ENTRIES, RECORDS], "readwrite");
    transaction.objectStore(ENTRIES).delete(id);
    transaction.objectStore(RECORDS).delete(id);
    await completion(transaction);
    this.#channel.postMessage("changed");
  }

  /**
   * Every conversation with all that is in it.
   * @returns {Promise<Record[]>}
   */
  all() {
    return result(this.#database.transaction(RECORDS).objectStore(RECORDS).getAll());
  }
}

/**
 * About how many bytes a record takes.
 * @param {Record} record
 */
function sizeOf(record) {
  return new Blob([JSON.stringify(record)]).size;
}

/** @param {unknown} error */
function full(error) {
  return error instanceof DOMException && error.name === "QuotaExceededError" ? new FullError("all") : error;
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * @param {IDBTransaction} transaction
 * @returns {Promise<void>}
 */
function completion(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("aborted"));
  });
}
