/** A path of messages and its settings as the body of a request. */

import { numberOf, schemaOf, stopsOf } from "./settings.js";

/** Where a person says nothing: as `alpage chat` answers. The interface's own default is 1. */
const TEMPERATURE = 0.6;
const TOP_P = 0.9;

/**
 * @param {import("./tree.js").Message[]} path what was said so far, the question last
 * @param {import("./settings.js").Settings} settings without mistakes
 * @returns {object} a body for /v1/chat/completions
 */
export function chatBody(path, settings) {
  const messages = path
    .map((message) => ({ role: /** @type {string} */ (message.role), content: contentOf(message) }))
    .filter((message) => message.content !== "");
  if (settings.system.trim() !== "") messages.unshift({ role: "system", content: settings.system });
  const stop = stopsOf(settings);
  return {
    model: settings.model,
    messages,
    temperature: numberOf(settings.temperature) ?? TEMPERATURE,
    top_p: numberOf(settings.topP) ?? TOP_P,
    max_tokens: numberOf(settings.maxTokens),
    seed: numberOf(settings.seed),
    stop: stop.length > 0 ? stop : undefined,
    response_format: settings.json ? jsonSchema(settings) : undefined,
  };
}

/** @param {import("./settings.js").Settings} settings */
function jsonSchema(settings) {
  return { type: "json_schema", json_schema: { name: "answer", schema: schemaOf(settings) } };
}

/**
 * A message's text with its files, each in a fence that nothing inside it can close.
 * @param {import("./tree.js").Message} message
 * @returns {string}
 */
export function contentOf(message) {
  const files = message.files.map(({ name, text }) => {
    const runs = text.match(/`{3,}/g) ?? [];
    const fence = "`".repeat(runs.reduce((most, run) => Math.max(most, run.length + 1), 3));
    return `${name}:\n${fence}\n${text.endsWith("\n") ? text : `${text}\n`}${fence}`;
  });
  return [...files, message.text].filter((part) => part !== "").join("\n\n");
}
