/** Files as small labels. */

import { button, el } from "../dom.js";
import { t } from "../i18n.js";
import { icon } from "../icons.js";

/**
 * @param {string} name
 * @param {() => void} [remove] offered where given
 * @returns {HTMLElement}
 */
export function fileChip(name, remove) {
  const away = remove && button({ label: t("file.remove", { name }), icon: icon("close") }, remove);
  return el("span", { class: "filechip" }, icon("file"), name, away);
}
