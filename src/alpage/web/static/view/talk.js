/** The messages on screen, and where the view of them stands. */

import { byId, button } from "../dom.js";
import { t } from "../i18n.js";
import { variantsOf } from "../tree.js";
import { Announcer } from "./announcer.js";
import { MessageView } from "./message.js";

const NEAR = 64;
const IDEAS = ["idea.1", "idea.2", "idea.3"];

/** The middle of the page. */
export class TalkView {
  /** @type {Map<string, MessageView>} */
  #views = new Map();
  #announcer = new Announcer(byId("live"));
  #list = byId("messages");
  #talk = byId("talk");
  #follows = true;

  /**
   * @param {import("../chat.js").Chat} chat
   * @param {(model: string) => number | undefined} context tokens of a model's context, where they are known
   */
  constructor(chat, context) {
    this.chat = chat;
    this.context = context;
    chat.addEventListener("conversation", () => this.show());
    chat.addEventListener("text", (event) => this.#grow(/** @type {CustomEvent} */ (event).detail));
    chat.addEventListener("state", (event) => this.#settle(/** @type {CustomEvent} */ (event).detail));
    this.#talk.addEventListener("scroll", () => this.#scrolled());
    byId("latest").addEventListener("click", () => this.#toEnd());
  }

  /** Show the path of the conversation. Messages that stood there already stay as they are. */
  show() {
    const { path } = this.chat;
    const conversation = this.chat.conversation;
    const before = this.#views;
    this.#views = new Map();
    for (const message of path) {
      const variants = [...variantsOf(conversation, message.id)];
      const known = before.get(message.id);
      const same = known !== undefined && known.message === message && known.variants.length === variants.length && !known.editor;
      this.#views.set(message.id, same ? known : new MessageView(message, variants, this.#actions()));
    }
    const inside = this.#list.contains(document.activeElement);
    this.#list.replaceChildren(...[...this.#views.values()].map((view) => view.element));
    // The button that was pressed may be gone; whoever walks by keyboard stays in the conversation.
    if (inside && !this.#list.contains(document.activeElement)) this.#talk.focus();
    byId("empty").hidden = path.length > 0;
    byId("ideas").replaceChildren(...IDEAS.map((key) => this.#idea(t(key))));
    if (path.at(-1)?.state === "writing") this.#announcer.begin();
    else this.#announcer.clear();
    this.#toEnd();
  }

  /** Draw everything anew: the language has changed. */
  redraw() {
    this.#views.clear();
    this.show();
  }

  /** Edit the last question, where there is one. */
  editLast() {
    if (this.chat.busy) return;
    [...this.#views.values()].reverse().find((view) => view.message.role === "user")?.edit();
  }

  /** Have the last question answered again. */
  again() {
    const last = this.chat.path.at(-1);
    if (last !== undefined) this.chat.again(last.id);
  }

  /** @returns {import("./message.js").Actions} */
  #actions() {
    return {
      again: (id) => this.chat.again(id),
      edit: (id, text) => this.chat.edit(id, text),
      choose: (id) => this.#choose(id),
      drawn: () => this.#drawn(),
      context: this.context,
    };
  }

  /**
   * Switch to another version, and stay on the buttons that did it.
   * @param {string} id
   */
  #choose(id) {
    const { scrollTop } = this.#talk;
    const side = document.activeElement?.matches(".branches .button:first-child") ? "first" : "last";
    this.chat.choose(id);
    this.#talk.scrollTop = scrollTop;
    const buttons = this.#views.get(id)?.foot.querySelectorAll(".branches .button") ?? [];
    const enabled = /** @type {HTMLButtonElement[]} */ ([...buttons]).filter((one) => !one.disabled);
    enabled.at(side === "first" ? 0 : -1)?.focus();
  }

  /** @param {string} text */
  #idea(text) {
    return button({ label: text, text }, () => this.chat.send(text, []));
  }

  /** @param {{message: import("../tree.js").Message, text: string}} detail */
  #grow({ message, text }) {
    const view = this.#views.get(message.id);
    if (view === undefined) return;
    view.grow(text);
    this.#announcer.add(text);
  }

  /** @param {{message: import("../tree.js").Message}} detail */
  #settle({ message }) {
    const view = this.#views.get(message.id);
    if (view === undefined) return;
    view.settle();
    const failed = message.state !== "done";
    this.#announcer.end(failed ? t(`state.${message.state}`, { message: message.error }) : t("live.done"));
    this.#drawn();
  }

  #drawn() {
    if (this.#follows) this.#talk.scrollTop = this.#talk.scrollHeight;
    else this.#scrolled();
  }

  #toEnd() {
    this.#follows = true;
    this.#talk.scrollTop = this.#talk.scrollHeight;
    byId("latest").hidden = true;
  }

  /** Whoever scrolls up to read is left there. */
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#talk;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR;
    byId("latest").hidden = this.#follows;
  }
}
