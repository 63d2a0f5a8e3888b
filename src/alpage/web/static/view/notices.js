/** What has to be told beside the conversation. A notice stays until it is closed: nobody reads to a clock. */

import { button, el } from "../dom.js";
import { t } from "../i18n.js";
import { icon } from "../icons.js";

const MOST = 4;

/** The corner for notices. */
export class Notices {
  /** @param {HTMLElement} place with role="alert" */
  constructor(place) {
    this.place = place;
  }

  /**
   * Show a text once, however often it is told.
   * @param {string} text
   * @param {{label: string, run: () => void}} [action]
   */
  show(text, action) {
    if ([...this.place.children].some((notice) => notice.firstChild?.textContent === text)) return;
    const act = action && button({ label: action.label, text: action.label, kind: "lined" }, () => {
      notice.remove();
      action.run();
    });
    const close = button({ label: t("notice.close"), icon: icon("close") }, () => notice.remove());
    const notice = el("div", { class: "notice" }, el("p", {}, text), act, close);
    this.place.append(notice);
    while (this.place.childElementCount > MOST) this.place.firstElementChild?.remove();
  }

  /** Close the latest; false where there is none. */
  close() {
    const last = this.place.lastElementChild;
    last?.remove();
    return last !== null;
  }
}
