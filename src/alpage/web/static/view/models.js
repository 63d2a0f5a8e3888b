/** Which model answers. */

import { ServerError, listModels } from "../api.js";
import { byId, el } from "../dom.js";
import { t } from "../i18n.js";
import { apiKey } from "../key.js";

/** The choice of a model. */
export class ModelChoice {
  /** @type {import("../api.js").Model[]} */
  #models = [];
  #select = /** @type {HTMLSelectElement} */ (byId("model"));

  /**
   * @param {import("../chat.js").Chat} chat
   * @param {import("./notices.js").Notices} notices
   */
  constructor(chat, notices) {
    this.chat = chat;
    this.notices = notices;
    this.#select.addEventListener("change", () => chat.set({ model: this.#select.value }));
    chat.addEventListener("conversation", () => this.show());
  }

  /** Ask the server for its models. */
  async load() {
    try {
      this.#models = await listModels(apiKey());
    } catch (error) {
      if (error instanceof ServerError && error.status === 401) {
        this.chat.dispatchEvent(new CustomEvent("key", { detail: {} }));
        return;
      }
      const message = error instanceof Error ? error.message : String(error);
      const action = { label: t("model.retry"), run: () => void this.load() };
      this.notices.show(t("model.failed", { message }), action);
      return;
    }
    this.show();
  }

  /**
   * Tokens of a model's context, where the server has told.
   * @param {string} id
   * @returns {number | undefined}
   */
  context(id) {
    return this.#models.find((model) => model.id === id)?.context;
  }

  /** Show the models, and the one of the conversation; a model that is gone gives way to the first. */
  show() {
    const { settings } = this.chat.conversation;
    if (this.#models.length > 0 && !this.#models.some((model) => model.id === settings.model)) {
      settings.model = this.#models[0].id;
    }
    const options = this.#models.map(({ id, parent }) =>
      el("option", { value: id }, parent === undefined ? id : t("model.adapter", { id, parent })));
    this.#select.replaceChildren(...options);
    this.#select.value = settings.model;
    this.#select.disabled = options.length === 0;
  }
}
