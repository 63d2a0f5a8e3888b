/** The drawer of settings. What is typed holds at once; what is wrong is told at once, beside its field. */

import { button, el } from "../dom.js";
import { t } from "../i18n.js";
import { asSettings, mistakes } from "../settings.js";
import { openDialog } from "./dialogs.js";

/**
 * @typedef {import("../settings.js").Settings} Settings
 * @typedef {Exclude<keyof Settings, "model" | "json">} TextName
 */

/**
 * @param {import("../chat.js").Chat} chat
 * @param {{changed: () => void, key: () => void}} actions
 */
export function showSettings(chat, { changed, key }) {
  /** @type {Map<string, {field: HTMLInputElement | HTMLTextAreaElement, wrong: HTMLElement}>} */
  const fields = new Map();

  const check = () => {
    const { settings } = chat.conversation;
    const found = /** @type {Record<string, string>} */ (mistakes(settings));
    for (const [name, { field, wrong }] of fields) {
      const reason = found[name];
      wrong.textContent = reason === undefined ? "" : t(reason, { message: reasonOf(settings, name) });
      field.setAttribute("aria-invalid", String(reason !== undefined));
    }
    changed();
  };

  /**
   * @param {TextName} name
   * @param {HTMLInputElement | HTMLTextAreaElement} field
   * @param {{help?: string}} [more]
   */
  const setting = (name, field, { help } = {}) => {
    const id = `settings-${name}`;
    const wrong = el("p", { id: `${id}-wrong`, class: "wrong", role: "status" });
    field.id = id;
    field.value = chat.conversation.settings[name];
    field.setAttribute("aria-describedby", help === undefined ? wrong.id : `${id}-help ${wrong.id}`);
    field.addEventListener("input", () => {
      chat.set({ [name]: field.value });
      check();
    });
    fields.set(name, { field, wrong });
    const note = help !== undefined && el("p", { id: `${id}-help`, class: "help" }, help);
    return el("div", { class: "setting" }, el("label", { for: id }, t(`settings.${name}`)), field, note, wrong);
  };

  const short = (/** @type {string} */ key = "settings.server") =>
    el("input", { class: "field", inputmode: "decimal", autocomplete: "off", placeholder: t(key) });
  const long = (/** @type {string} */ kind, /** @type {string} */ text = "") =>
    el("textarea", { class: `field ${kind}`, rows: 3, spellcheck: kind === "mono" ? "false" : null, placeholder: text });

  const schema = setting("schema", long("mono", '{"type": "object", "properties": {}}'));
  const json = el("input", { id: "settings-json", type: "checkbox" });
  json.checked = chat.conversation.settings.json;
  schema.hidden = !json.checked;
  json.addEventListener("change", () => {
    chat.set({ json: json.checked });
    schema.hidden = !json.checked;
    check();
  });

  const reset = () => {
    const { model } = chat.conversation.settings;
    chat.set({ ...asSettings(null), model });
    showSettings(chat, { changed, key });
    changed();
  };
  const pair = (/** @type {Node[]} */ ...two) => el("div", { class: "pair" }, ...two);
  const dialog = openDialog("settings", t("settings"), [
    setting("system", long("")),
    pair(
      setting("temperature", short(), { help: t("settings.temperatureHelp") }),
      setting("seed", short("settings.random"), { help: t("settings.seedHelp") }),
    ),
    pair(setting("topP", short()), setting("maxTokens", short())),
    setting("stop", long("mono short"), { help: t("settings.stopHelp") }),
    el("div", { class: "check" }, json, el("label", { for: "settings-json" }, t("settings.json"))),
    schema,
    el(
      "div", { class: "actions" },
      button({ label: t("key.open"), text: t("key.open"), kind: "quiet" }, () => {
        dialog.close();
        key();
      }),
      button({ label: t("settings.reset"), text: t("settings.reset"), kind: "lined" }, reset),
      button({ label: t("settings.done"), text: t("settings.done"), kind: "strong" }, () => dialog.close()),
    ),
  ]);
  check();
  fields.get("system")?.field.focus();
}

/**
 * What the browser's parser says about a schema's text.
 * @param {Settings} settings
 * @param {string} name
 */
function reasonOf(settings, name) {
  if (name !== "schema" || settings.schema.trim() === "") return "";
  try {
    JSON.parse(settings.schema);
    return "";
  } catch (error) {
    return error instanceof Error ? error.message.slice(0, 200) : "";
  }
}
