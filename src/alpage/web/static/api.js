/** What the page asks the server: the models, and answers as they are written. */

import { EventParser } from "./sse.js";

const LONGEST_ERROR = 4000;

/** The server has answered that it will not or cannot. `message` is the server's own. */
export class ServerError extends Error {
  /**
   * @param {number} status 0 for an error in the middle of an answer
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** No answer, or an answer that stopped before its end. */
export class ConnectionError extends Error {}

/**
 * @typedef {{id: string, parent?: string, context?: number}} Model
 * @typedef {{prompt: number, cached: number, completion: number}} Usage tokens
 * @typedef {{text?: string, usage?: Usage, finish?: string}} Part
 */

/**
 * The models of this server; adapters are models too.
 * @param {string} key "" for none
 * @returns {Promise<Model[]>}
 */
export async function listModels(key) {
  const response = await request("v1/models", { headers: headersFor(key) });
  const body = await response.json().catch(() => null);
  const cards = Array.isArray(body?.data) ? body.data : [];
  return cards.filter((/** @type {any} */ card) => typeof card?.id === "string").map(model);
}

/**
 * @param {any} card
 * @returns {Model}
 */
function model(card) {
  const { id, parent, context_length: context } = card;
  return {
    id,
    parent: typeof parent === "string" && parent !== id ? parent : undefined,
    context: Number.isInteger(context) && context > 0 ? context : undefined,
  };
}

/**
 * The answer to a body for /v1/chat/completions, part by part. Ends when the answer does; throws a ServerError, a
 * ConnectionError, or the AbortError of the signal.
 * @param {object} body
 * @param {{key: string, signal: AbortSignal}} options
 * @returns {AsyncGenerator<Part, void, void>}
 */
export async function* streamChat(body, { key, signal }) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { ...headersFor(key), "content-type": "application/json" },
    body: JSON.stringify(asked),
    signal,
  });
  let finished = false;
  for await (const data of eventsOf(response)) {
    if (data === "[DONE]") return;
    for (const part of partsOf(data)) {
      finished ||= part.finish !== undefined;
      yield part;
    }
  }
  if (!finished) throw new ConnectionError("the stream ended before the answer did");
}

/**
 * @param {string} key
 * @returns {Record<string, string>}
 */
function headersFor(key) {
  return key === "" ? {} : { authorization: `Bearer ${key}` };
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function request(path, options) {
  let response;
  try {
    response = await fetch(`/${path}`, { ...options, credentials: "omit", referrerPolicy: "no-referrer", redirect: "error" });
  } catch (error) {
    throw dropped(error);
  }
  if (!response.ok) throw new ServerError(response.status, await messageOf(response));
  return response;
}

/** @param {unknown} error */
function dropped(error) {
  if (error instanceof DOMException && error.name === "AbortError") return error;
  return new ConnectionError(error instanceof Error ? error.message : String(error));
}

/**
 * The message of an error's body, or what there is instead of one.
 * @param {Response} response
 */
async function messageOf(response) {
  const text = await response.text().catch(() => "");
  try {
    const message = JSON.parse(text)?.error?.message;
    if (typeof message === "string" && message !== "") return message.slice(0, LONGEST_ERROR);
  } catch {
    // Not JSON: a proxy's page, for example.
  }
  return `HTTP ${response.status} ${response.statusText}`.trim();
}

/** @param {Response} response */
async function* eventsOf(response) {
  if (response.body === null) throw new ConnectionError("the answer has no body");
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => { throw dropped(error); });
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } catch (error) {
    if (error instanceof RangeError) throw new ServerError(0, error.message);
    throw error;
  } finally {
    // Whoever reads no further closes the connection, which ends the work on the server.
    void reader.cancel().catch(() => undefined);
  }
}

/**
 * What one event tells.
 * @param {string} data
 * @returns {Part[]}
 */
function partsOf(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    throw new ServerError(0, `an event of the stream is not JSON: ${data.slice(0, 80)}`);
  }
  if (event?.error) {
    const { message } = event.error;
    throw new ServerError(0, typeof message === "string" ? message.slice(0, LONGEST_ERROR) : "error");
  }
  const parts = [];
  const choice = event?.choices?.[0];
  if (typeof choice?.delta?.content === "string" && choice.delta.content !== "") parts.push({ text: choice.delta.content });
  if (typeof choice?.finish_reason === "string") parts.push({ finish: choice.finish_reason });
  if (event?.usage) parts.push({ usage: usageOf(event.usage) });
  return parts;
}

/**
 * @param {any} usage
 * @returns {Usage}
 */
function usageOf(usage) {
  const count = (/** @type {unknown} */ value) => (typeof value === "number" && value >= 0 ? value : 0);
  return {
    prompt: count(usage.prompt_tokens),
    cached: count(usage.prompt_tokens_details?.cached_tokens),
    completion: count(usage.completion_tokens),
  };
}
