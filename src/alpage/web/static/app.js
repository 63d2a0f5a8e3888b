/** The page's beginning: its parts are made and joined here. */

import { Chat } from "./chat.js";
import { byId } from "./dom.js";
import { language, setLanguage, t, translate } from "./i18n.js";
import { icon } from "./icons.js";
import { Store } from "./store.js";
import { isDark, onSystemTheme, toggleTheme } from "./theme.js";
import { titleOf } from "./tree.js";
import { Composer } from "./view/composer.js";
import { askKey, showShortcuts } from "./view/dialogs.js";
import { ModelChoice } from "./view/models.js";
import { Notices } from "./view/notices.js";
import { showSettings } from "./view/settings.js";
import { SideView } from "./view/side.js";
import { TalkView } from "./view/talk.js";
import { listenForShortcuts } from "./shortcuts.js";

async function start() {
  translatePage();
  const notices = new Notices(byId("notices"));
  const store = await Store.open().catch(() => null);
  if (store === null) notices.show(t("store.none"));
  const chat = new Chat(store);
  const models = new ModelChoice(chat, notices);
  const talk = new TalkView(chat, (model) => models.context(model));
  const composer = new Composer(chat, notices, { editLast: () => talk.editLast() });
  const create = () => {
    side.toggle(false);
    chat.create();
    composer.focus();
  };
  const side = new SideView(chat, notices, { create });

  const key = (/** @type {string | undefined} */ again) => askKey(() => {
    void models.load();
    if (again !== undefined && chat.conversation.messages.has(again)) chat.again(again);
  });
  const settings = () => showSettings(chat, { changed: () => composer.update(), key: () => key(undefined) });

  chat.addEventListener("key", (event) => key(/** @type {CustomEvent} */ (event).detail.again));
  chat.addEventListener("notice", (event) => {
    const { key: told, open } = /** @type {CustomEvent} */ (event).detail;
    if (open === "settings") settings();
    else if (told === "model.none") notices.show(t(told), { label: t("model.retry"), run: () => void models.load() });
    else notices.show(t(told));
  });
  for (const name of ["conversation", "list"]) chat.addEventListener(name, () => keepPlace(chat));
  store?.onChange(() => void side.load());
  addEventListener("pagehide", () => chat.leave());

  byId("settings-open").prepend(icon("tune"));
  byId("settings-open").addEventListener("click", settings);
  byId("help-open").append(icon("help"));
  byId("help-open").addEventListener("click", showShortcuts);
  themeButton();
  languageChoice(() => {
    composer.update();
    models.show();
    talk.redraw();
    void side.load();
  });
  listenForShortcuts({ chat, composer, create, notices, settings, side, talk, help: showShortcuts });

  await Promise.all([models.load(), side.load()]);
  await chat.open(location.hash.slice(1));
  talk.show();
  if (document.activeElement === document.body) composer.focus();
  document.documentElement.dataset.ready = "true";
}

/**
 * The address and the window's title name the conversation, so that a reload comes back to it.
 * @param {Chat} chat
 */
function keepPlace(chat) {
  const { id, messages } = chat.conversation;
  history.replaceState(null, "", messages.size > 0 ? `#${id}` : location.pathname);
  const title = titleOf(chat.conversation);
  document.title = title === "" ? "Alpage" : `${title} \u00b7 Alpage`;
}

function translatePage() {
  document.documentElement.lang = language();
  translate(document);
}

function themeButton() {
  const show = () => byId("theme").replaceChildren(icon(isDark() ? "sun" : "moon"));
  byId("theme").addEventListener("click", () => {
    toggleTheme();
    show();
  });
  onSystemTheme(show);
  show();
}

/** @param {() => void} changed */
function languageChoice(changed) {
  const choice = /** @type {HTMLSelectElement} */ (byId("language"));
  choice.value = language();
  choice.addEventListener("change", () => {
    setLanguage(choice.value);
    translatePage();
    changed();
  });
}

await start();
