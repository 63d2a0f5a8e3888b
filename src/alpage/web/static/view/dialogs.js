/** Dialogs that ask one thing: a title, a yes, a key; and the list of shortcuts. */

import { byId, button, el } from "../dom.js";
import { t } from "../i18n.js";
import { icon } from "../icons.js";
import { apiKey, keyIsRemembered, setApiKey } from "../key.js";
import { TITLE_CHARACTERS } from "../limits.js";

/**
 * Fill a dialog and show it. The browser keeps the focus inside, and gives it back afterwards.
 * @param {string} id also of the title: `id-title`
 * @param {string} title
 * @param {Node[]} contents
 * @returns {HTMLDialogElement}
 */
export function openDialog(id, title, contents) {
  const dialog = /** @type {HTMLDialogElement} */ (byId(id));
  const close = button({ label: t("close"), icon: icon("close") }, () => dialog.close());
  const head = el("div", { class: "title-row" }, el("h2", { id: `${id}-title` }, title), close);
  dialog.replaceChildren(head, ...contents);
  if (!dialog.open) dialog.showModal();
  return dialog;
}

/**
 * Enter in a dialog's field does what its button does.
 * @param {HTMLElement} field
 * @param {() => void} action
 */
function onEnter(field, action) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    action();
  });
}

/**
 * @param {string} title
 * @param {(title: string) => void} done
 */
export function askTitle(title, done) {
  const field = el("input", { id: "ask-field", class: "field", maxlength: TITLE_CHARACTERS, autocomplete: "off" });
  field.value = title;
  const save = () => {
    dialog.close();
    if (field.value.trim() !== "") done(field.value);
  };
  onEnter(field, save);
  const actions = el(
    "div", { class: "actions" },
    button({ label: t("ask.cancel"), text: t("ask.cancel"), kind: "lined" }, () => dialog.close()),
    button({ label: t("ask.rename"), text: t("ask.rename"), kind: "strong" }, save),
  );
  const setting = el("div", { class: "setting" }, el("label", { for: "ask-field" }, t("ask.title")), field);
  const dialog = openDialog("ask", t("ask.renameTitle"), [setting, actions]);
  field.select();
}

/**
 * @param {string} title
 * @param {() => void} done
 */
export function askRemoval(title, done) {
  const cancel = button({ label: t("ask.cancel"), text: t("ask.cancel"), kind: "lined" }, () => dialog.close());
  const remove = button({ label: t("ask.remove"), text: t("ask.remove"), kind: "danger" }, () => {
    dialog.close();
    done();
  });
  const text = el("p", {}, t("ask.removeText", { title }));
  const dialog = openDialog("ask", t("ask.removeTitle"), [text, el("div", { class: "actions" }, cancel, remove)]);
  cancel.focus();
}

/**
 * @param {() => void} done called when a key was given
 */
export function askKey(done) {
  const field = el("input", { id: "key-field", class: "field", type: "password", autocomplete: "off", spellcheck: "false" });
  field.value = apiKey();
  const remember = el("input", { id: "key-remember", type: "checkbox" });
  remember.checked = keyIsRemembered();
  const save = () => {
    setApiKey(field.value.trim(), remember.checked);
    dialog.close();
    done();
  };
  onEnter(field, save);
  const dialog = openDialog("key", t("key.title"), [
    el("p", {}, t("key.text")),
    el("div", { class: "setting" }, el("label", { for: "key-field" }, t("key.field")), field),
    el("div", { class: "check" }, remember, el("label", { for: "key-remember" }, t("key.remember"))),
    el(
      "div", { class: "actions" },
      button({ label: t("key.cancel"), text: t("key.cancel"), kind: "lined" }, () => dialog.close()),
      button({ label: t("key.save"), text: t("key.save"), kind: "strong" }, save),
    ),
  ]);
  field.focus();
}

/** @type {[string[], string][]} keys, and the string that says what they do */
const SHORTCUTS = [
  [["Enter"], "shortcut.send"],
  [["Shift", "Enter"], "shortcut.line"],
  [["Esc"], "shortcut.close"],
  [["\u2191"], "shortcut.edit"],
  [["/"], "shortcut.field"],
  [["Alt", "N"], "shortcut.new"],
  [["Alt", "R"], "shortcut.again"],
  [["Alt", "C"], "shortcut.list"],
  [["Alt", "P"], "shortcut.settings"],
  [["?"], "shortcut.help"],
];

/** Show the list of shortcuts. */
export function showShortcuts() {
  const rows = SHORTCUTS.flatMap(([keys, what]) => {
    const shown = keys.flatMap((key, at) => (at === 0 ? [el("kbd", {}, key)] : ["+", el("kbd", {}, key)]));
    return [el("dt", {}, ...shown), el("dd", {}, t(what))];
  });
  openDialog("help", t("shortcuts"), [el("dl", { class: "keys" }, ...rows)]);
}
