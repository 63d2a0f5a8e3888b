/** What a person can set: parameters of answers, kept with each conversation; theme and language. */

/**
 * Numbers are the texts of their fields: "" leaves the choice to the server.
 * @typedef {{model: string, system: string, temperature: string, topP: string, maxTokens: string, seed: string,
 *   stop: string, json: boolean, schema: string}} Settings
 * @typedef {"temperature" | "topP" | "maxTokens" | "seed" | "stop" | "schema"} Field
 */

const KEPT = "alpage.settings";
const LONGEST = 100_000;
const MOST_STOPS = 16;

/** @type {Settings} */
const NOTHING = {
  model: "", system: "", temperature: "", topP: "", maxTokens: "", seed: "", stop: "", json: false, schema: "",
};

/**
 * Settings out of any value: what is not of the right kind is left at its default.
 * @param {unknown} value
 * @returns {Settings}
 */
export function asSettings(value) {
  const given = /** @type {Record<string, unknown>} */ (value !== null && typeof value === "object" ? value : {});
  const made = /** @type {Record<string, string | boolean>} */ ({ ...NOTHING });
  for (const [name, usual] of Object.entries(NOTHING)) {
    const found = Object.hasOwn(given, name) ? given[name] : undefined;
    if (typeof found !== typeof usual) continue;
    made[name] = typeof found === "string" ? found.slice(0, LONGEST) : Boolean(found);
  }
  return /** @type {Settings} */ (/** @type {unknown} */ (made));
}

/**
 * What a new conversation begins with: the settings used last, without the schema's mode.
 * @returns {Settings}
 */
export function usualSettings() {
  try {
    return { ...asSettings(JSON.parse(read(KEPT) ?? "null")), json: false };
  } catch {
    return { ...NOTHING };
  }
}

/**
 * Begin later conversations with these.
 * @param {Settings} settings
 */
export function keepSettings(settings) {
  write(KEPT, JSON.stringify(settings));
}

/**
 * What is wrong with each field, as a key of the language's strings; an empty object where nothing is.
 * @param {Settings} settings
 * @returns {Partial<Record<Field, string>>}
 */
export function mistakes(settings) {
  /** @type {Partial<Record<Field, string>>} */
  const found = {};
  if (!within(settings.temperature, (value) => value >= 0 && value <= 2)) found.temperature = "wrong.temperature";
  if (!within(settings.topP, (value) => value > 0 && value <= 1)) found.topP = "wrong.topP";
  if (!within(settings.maxTokens, (value) => Number.isSafeInteger(value) && value >= 1)) found.maxTokens = "wrong.maxTokens";
  if (!within(settings.seed, (value) => Number.isSafeInteger(value))) found.seed = "wrong.seed";
  if (stopsOf(settings).length > MOST_STOPS) found.stop = "wrong.stop";
  if (settings.json && schemaOf(settings) === null) found.schema = "wrong.schema";
  return found;
}

/**
 * @param {string} text
 * @param {(value: number) => boolean} fits
 */
function within(text, fits) {
  const plain = text.trim().replace(",", ".");
  return plain === "" || (/^[-+]?(\d+\.?\d*|\.\d+)$/.test(plain) && fits(Number(plain)));
}

/**
 * A field's number, or undefined where it is empty.
 * @param {string} text
 * @returns {number | undefined}
 */
export function numberOf(text) {
  const plain = text.trim().replace(",", ".");
  return plain === "" ? undefined : Number(plain);
}

/**
 * The stop strings: one a line, with `\n`, `\t` and `\\` for what a line cannot hold.
 * @param {Settings} settings
 * @returns {string[]}
 */
export function stopsOf(settings) {
  const marks = /** @type {Record<string, string>} */ ({ n: "\n", t: "\t", "\\": "\\" });
  const lines = settings.stop.split("\n").filter((line) => line !== "");
  return lines.map((line) => line.replace(/\\([nt\\])/g, (_, mark) => marks[mark]));
}

/**
 * The schema of the answers, or null where the text is no JSON object.
 * @param {Settings} settings
 * @returns {object | null}
 */
export function schemaOf(settings) {
  try {
    const schema = JSON.parse(settings.schema);
    return schema !== null && typeof schema === "object" && !Array.isArray(schema) ? schema : null;
  } catch {
    return null;
  }
}

/**
 * What this browser keeps under a name, or null; also null where it lets the page keep nothing.
 * @param {string} name
 * @param {"local" | "session"} [where]
 * @returns {string | null}
 */
export function read(name, where = "local") {
  try {
    return (where === "local" ? localStorage : sessionStorage).getItem(name);
  } catch {
    return null;
  }
}

/**
 * Keep a text, or nothing any more for null; false where the browser refuses.
 * @param {string} name
 * @param {string | null} value
 * @param {"local" | "session"} [where]
 * @returns {boolean}
 */
export function write(name, value, where = "local") {
  try {
    const storage = where === "local" ? localStorage : sessionStorage;
    if (value === null) storage.removeItem(name);
    else storage.setItem(name, value);
    return true;
  } catch {
    return false;
  }
}
