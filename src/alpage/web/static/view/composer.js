/** The field below the conversation: text, files, send and stop. */

import { AttachError, readTextFile } from "../attach.js";
import { byId, el } from "../dom.js";
import { number, t } from "../i18n.js";
import { icon } from "../icons.js";
import { FILES, FILE_BYTES } from "../limits.js";
import { fileChip } from "./files.js";

/** The field. */
export class Composer {
  #field = /** @type {HTMLTextAreaElement} */ (byId("question"));
  #send = /** @type {HTMLButtonElement} */ (byId("send"));
  /** @type {import("../tree.js").File[]} */
  #files = [];

  /**
   * @param {import("../chat.js").Chat} chat
   * @param {import("./notices.js").Notices} notices
   * @param {{editLast: () => void}} actions
   */
  constructor(chat, notices, { editLast }) {
    this.chat = chat;
    this.notices = notices;
    this.editLast = editLast;
    for (const name of ["conversation", "state"]) chat.addEventListener(name, () => this.update());
    byId("attach").append(icon("attach"));
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (chat.busy) chat.stop();
      else this.#submit();
    });
    this.#field.addEventListener("keydown", (event) => this.#pressed(event));
    this.#field.addEventListener("input", () => this.update());
    this.#listenForFiles();
    this.update();
  }

  focus() {
    this.#field.focus();
  }

  /** Fit the field and its buttons to what is there. */
  update() {
    const { busy } = this.chat;
    const label = t(busy ? "stop" : "send");
    this.#send.replaceChildren(busy ? stopIcon() : icon("send"));
    this.#send.setAttribute("aria-label", label);
    this.#send.title = label;
    this.#send.disabled = !busy && this.#field.value.trim() === "" && this.#files.length === 0;
    byId("mode").hidden = !this.chat.conversation.settings.json;
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
    const chips = this.#files.map((file) => el("li", {}, fileChip(file.name, () => this.#drop(file))));
    byId("files").replaceChildren(...chips);
  }

  #submit() {
    if (!this.chat.send(this.#field.value, this.#files)) return;
    this.#field.value = "";
    this.#files = [];
    this.update();
    this.focus();
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!this.chat.busy) this.#submit();
    } else if (event.key === "ArrowUp" && this.#field.value === "") {
      event.preventDefault();
      this.editLast();
    }
  }

  #listenForFiles() {
    const chooser = /** @type {HTMLInputElement} */ (byId("attach-file"));
    byId("attach").addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      void this.#take([...(chooser.files ?? [])]);
      chooser.value = "";
    });
    const veil = byId("drop");
    let inside = 0;
    const carries = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
    const show = (/** @type {number} */ depth) => {
      inside = Math.max(0, depth);
      veil.hidden = inside === 0;
    };
    addEventListener("dragenter", (event) => carries(event) && show(inside + 1));
    addEventListener("dragleave", (event) => carries(event) && show(inside - 1));
    // Without this, the browser would leave the page and open the file.
    addEventListener("dragover", (event) => carries(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      show(0);
      void this.#take([...(event.dataTransfer?.files ?? [])]);
    });
  }

  /** @param {globalThis.File[]} files */
  async #take(files) {
    for (const file of files) {
      try {
        this.#files.push(await readTextFile(file, this.#files.length));
      } catch (error) {
        if (!(error instanceof AttachError)) throw error;
        const limit = error.key === "attach.many" ? number(FILES) : number(FILE_BYTES / 1024);
        this.notices.show(t(error.key, { name: error.name, limit }));
        if (error.key === "attach.many") break;
      }
    }
    this.update();
    this.focus();
  }

  /** @param {import("../tree.js").File} file */
  #drop(file) {
    this.#files = this.#files.filter((other) => other !== file);
    this.update();
    this.focus();
  }
}

function stopIcon() {
  const made = icon("stop");
  made.classList.add("filled");
  return made;
}
