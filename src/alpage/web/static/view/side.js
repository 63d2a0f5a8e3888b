/** The conversations of this browser: find, open, rename, delete, export, import. */

import { byId, button, el } from "../dom.js";
import { language, number, t } from "../i18n.js";
import { icon } from "../icons.js";
import { FullError } from "../store.js";
import { TransferError, exported, imported } from "../transfer.js";
import { askRemoval, askTitle } from "./dialogs.js";

const NARROW = matchMedia("(max-width: 48rem)");

/** The side of the page. */
export class SideView {
  /** @type {import("../store.js").Entry[]} */
  #entries = [];
  #shown = "";
  #side = byId("side");
  #search = /** @type {HTMLInputElement} */ (byId("search"));

  /**
   * @param {import("../chat.js").Chat} chat
   * @param {import("./notices.js").Notices} notices
   * @param {{create: () => void}} actions
   */
  constructor(chat, notices, { create }) {
    this.chat = chat;
    this.notices = notices;
    chat.addEventListener("list", () => void this.load());
    chat.addEventListener("conversation", () => this.#show());
    this.#search.addEventListener("input", () => this.#show());
    byId("new").prepend(icon("add"));
    byId("new").addEventListener("click", create);
    byId("menu").append(icon("menu"));
    byId("menu").addEventListener("click", () => this.toggle(true));
    byId("side-close").append(icon("close"));
    byId("side-close").addEventListener("click", () => this.toggle(false));
    byId("veil").addEventListener("click", () => this.toggle(false));
    NARROW.addEventListener("change", () => this.toggle(false));
    this.#listenForFiles();
  }

  /** Whether it lies over the page, on a narrow screen. */
  get over() {
    return this.#side.classList.contains("open");
  }

  /** @param {boolean} open */
  toggle(open) {
    const was = this.over;
    const over = open && NARROW.matches;
    this.#side.classList.toggle("open", over);
    byId("main").inert = over;
    byId("menu").setAttribute("aria-expanded", String(over));
    if (over) byId("side-close").focus();
    else if (was) byId("menu").focus();
  }

  /** Go to the list by keyboard. */
  focus() {
    this.toggle(true);
    const current = this.#side.querySelector(".entry.current .open") ?? this.#side.querySelector(".entry .open");
    /** @type {HTMLElement} */ (current ?? byId("new")).focus();
  }

  /** Read the list again. */
  async load() {
    this.#entries = (await this.chat.store?.entries()) ?? [];
    this.#show();
  }

  #show() {
    const wanted = this.#search.value.trim().toLocaleLowerCase();
    const found = this.#entries.filter((entry) => entry.title.toLocaleLowerCase().includes(wanted));
    // Every save tells that the list has changed; mostly it has not.
    const now = JSON.stringify([wanted, language(), this.chat.conversation.id, found.map(({ id, title }) => [id, title])]);
    if (now === this.#shown) return;
    this.#shown = now;
    const focused = /** @type {HTMLElement | null} */ (document.activeElement?.closest("#list [data-key]"))?.dataset.key;
    const rows = found.map((entry) => this.#row(entry));
    const nothing = el("li", { class: "nothing" }, t(this.#entries.length > 0 ? "list.nothing" : "list.empty"));
    byId("list").replaceChildren(...(rows.length > 0 ? rows : [nothing]));
    // The list is made anew while somebody walks through it: leave them where they were.
    if (focused !== undefined) /** @type {HTMLElement | null} */ (byId("list").querySelector(`[data-key="${focused}"]`))?.focus();
  }

  /** @param {import("../store.js").Entry} entry */
  #row({ id, title: kept }) {
    const title = kept === "" ? t("untitled") : kept;
    const current = id === this.chat.conversation.id;
    const open = el("button", { type: "button", class: "open", title, "aria-current": current && "true" }, title);
    open.addEventListener("click", () => {
      this.toggle(false);
      void this.chat.open(id);
    });
    const rename = button({ label: t("list.rename", { title }), icon: icon("edit") }, () =>
      askTitle(kept, (text) => void this.chat.rename(id, text)));
    const remove = button({ label: t("list.remove", { title }), icon: icon("remove") }, () =>
      askRemoval(title, () => void this.chat.remove(id)));
    for (const [name, control] of Object.entries({ open, rename, remove })) control.dataset.key = `${name}-${id}`;
    return el("li", { class: current ? "entry current" : "entry" }, open, rename, remove);
  }

  #listenForFiles() {
    const chooser = /** @type {HTMLInputElement} */ (byId("import-file"));
    byId("import").prepend(icon("upload"));
    byId("import").addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      const [file] = chooser.files ?? [];
      if (file !== undefined) void this.#import(file);
      chooser.value = "";
    });
    byId("export").prepend(icon("out"));
    byId("export").addEventListener("click", () => void this.#export());
  }

  /** @param {globalThis.File} file */
  async #import(file) {
    if (this.chat.store === null) {
      this.notices.show(t("store.none"));
      return;
    }
    try {
      const records = await imported(file);
      for (const record of records) await this.chat.store.save(record);
      this.notices.show(t("import.done", { count: number(records.length) }));
    } catch (error) {
      if (error instanceof TransferError) this.notices.show(t(error.key));
      else this.notices.show(t(error instanceof FullError ? `store.${error.what}` : "store.failed"));
    }
    await this.load();
  }

  async #export() {
    const records = (await this.chat.store?.all()) ?? [];
    if (records.length === 0) {
      this.notices.show(t("export.none"));
      return;
    }
    const address = URL.createObjectURL(new Blob([exported(records)], { type: "application/json" }));
    const day = new Date().toISOString().slice(0, 10);
    el("a", { href: address, download: `alpage-${day}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}
