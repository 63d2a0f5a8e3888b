/** One message: who said it, what, and what can be done with it. */

import { button, el } from "../dom.js";
import { number, t } from "../i18n.js";
import { icon } from "../icons.js";
import { PAUSE_MS, copyText } from "../markdown/render.js";
import { GrowingAnswer, showAnswer } from "./answer.js";
import { fileChip } from "./files.js";

/**
 * @typedef {import("../tree.js").Message} Message
 * @typedef {{again: (id: string) => void, edit: (id: string, text: string) => boolean, choose: (id: string) => void,
 *   drawn: () => void, context: (model: string) => number | undefined}} Actions
 */

/** A message on the page. */
export class MessageView {
  /** @type {GrowingAnswer | null} */
  #growing = null;

  /**
   * @param {Message} message
   * @param {string[]} variants
   * @param {Actions} actions
   */
  constructor(message, variants, actions) {
    this.message = message;
    this.variants = variants;
    this.actions = actions;
    this.body = el("div", { class: message.role === "user" ? "said" : "answer" });
    this.foot = el("div", { class: "foot" });
    const who = el("h2", { class: "who" }, message.role === "user" ? t("you") : message.model);
    const files = message.files.map((file) => el("li", {}, fileChip(file.name)));
    this.article = el(
      "article", {}, who, files.length > 0 && el("ul", { class: "files", "aria-label": t("files") }, ...files),
      this.body, this.foot,
    );
    this.element = el("li", { class: `message ${message.role}`, "data-id": message.id }, this.article);
    if (message.role === "user") this.#showQuestion();
    else if (message.state === "writing") this.#begin();
    else showAnswer(message, this.body);
    this.#finish();
  }

  #showQuestion() {
    this.body.textContent = this.message.text;
    this.body.hidden = this.message.text === "";
  }

  #begin() {
    this.article.setAttribute("aria-busy", "true");
    this.waiting = el("span", { class: "waiting", role: "img", "aria-label": t("waiting") }, el("i"), el("i"), el("i"));
    this.body.after(this.waiting);
    this.#growing = new GrowingAnswer(this.message, this.body, this.actions.drawn);
    if (this.message.text !== "") this.waiting.remove();
  }

  /** @param {string} text what has come of the answer */
  grow(text) {
    this.waiting?.remove();
    this.#growing?.push(text);
  }

  /** The message's state has changed. */
  settle() {
    this.waiting?.remove();
    this.#growing?.end();
    this.#growing = null;
    this.article.removeAttribute("aria-busy");
    this.#finish();
  }

  /** What stands below the text. */
  #finish() {
    const { message, actions } = this;
    this.note?.remove();
    this.foot.replaceChildren();
    if (message.state === "writing") return;
    const note = noteFor(message, actions);
    this.note = note;
    if (note !== null) this.foot.before(note);
    this.foot.append(...this.#branches());
    if (message.text !== "") this.foot.append(button({ label: t("copy"), icon: icon("copy") }, (event) => void this.#copy(event)));
    if (message.role === "user") {
      this.foot.append(button({ label: t("edit"), icon: icon("edit") }, () => this.edit()));
      return;
    }
    this.foot.append(button({ label: t("again"), icon: icon("again") }, () => actions.again(message.id)));
    const figures = figuresOf(message, actions.context(message.model));
    if (figures !== "") this.foot.append(el("span", { class: "figures" }, figures));
  }

  /** @param {MouseEvent} event */
  async #copy(event) {
    const pressed = /** @type {HTMLElement} */ (event.currentTarget);
    if (!(await copyText(this.message.text))) return;
    pressed.setAttribute("aria-label", t("copied"));
    pressed.replaceChildren(icon("check"));
    setTimeout(() => {
      pressed.setAttribute("aria-label", t("copy"));
      pressed.replaceChildren(icon("copy"));
    }, PAUSE_MS);
  }

  #branches() {
    const count = this.variants.length;
    if (count < 2) return [];
    const index = this.variants.indexOf(this.message.id);
    const go = (/** @type {number} */ to) => () => this.actions.choose(this.variants[to]);
    const label = t("branch", { index: index + 1, count });
    return [
      el(
        "span", { class: "branches", role: "group", "aria-label": label },
        button({ label: t("branch.previous"), icon: icon("left"), disabled: index === 0 }, go(index - 1)),
        el("span", { class: "place" }, `${index + 1}/${count}`),
        button({ label: t("branch.next"), icon: icon("right"), disabled: index === count - 1 }, go(index + 1)),
      ),
    ];
  }

  /** Put a field in the message's place. */
  edit() {
    if (this.message.role !== "user" || this.editor) return;
    const field = el("textarea", { class: "field", "aria-label": t("edit.label"), rows: 3 });
    field.value = this.message.text;
    const send = () => {
      if (!this.actions.edit(this.message.id, field.value)) field.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.#leave();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    const cancel = button({ label: t("ask.cancel"), text: t("ask.cancel"), kind: "lined" }, () => this.#leave());
    const ready = button({ label: t("edit.send"), text: t("edit.send"), kind: "strong" }, send);
    this.editor = el("div", { class: "editor" }, field, el("div", { class: "row" }, cancel, ready));
    this.element.classList.add("editing");
    this.body.hidden = true;
    this.foot.hidden = true;
    this.body.after(this.editor);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  #leave() {
    this.editor?.remove();
    this.editor = undefined;
    this.element.classList.remove("editing");
    this.#showQuestion();
    this.foot.hidden = false;
    /** @type {HTMLElement | null} */ (this.foot.querySelector(".button:last-child"))?.focus();
  }
}

/**
 * @param {Message} message
 * @param {Actions} actions
 */
function noteFor(message, actions) {
  if (message.role === "user" || message.state === "done" || message.state === "writing") return null;
  const failed = message.state === "error" || message.state === "cut";
  const again = failed && button({ label: t("again.cut"), text: t("again.cut"), kind: "lined" }, () => actions.again(message.id));
  const text = el("span", {}, t(`state.${message.state}`, { message: message.error }));
  return el("div", { class: message.state === "error" ? "note error" : "note" }, text, again);
}

/**
 * @param {Message} message
 * @param {number | undefined} context
 */
function figuresOf(message, context) {
  const { figures } = message;
  if (figures === null || figures.completion === 0) return "";
  const writing = figures.total - figures.first;
  const parts = [
    // The first token's time belongs to the prompt.
    figures.completion > 1 && writing > 0 && t("figures.speed", { speed: number((figures.completion - 1) / writing, 1) }),
    t("figures.first", { seconds: number(figures.first, 2) }),
    t("figures.prompt", { count: number(figures.prompt) })
      + (figures.cached > 0 ? ` (${t("figures.cached", { count: number(figures.cached) })})` : ""),
    t("figures.completion", { count: number(figures.completion) }),
    context !== undefined
      && t("figures.context", { used: number(figures.prompt + figures.completion), context: number(context) }),
  ];
  return parts.filter((part) => part !== false).join(" \u00b7 ");
}
