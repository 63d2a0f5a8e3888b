/** Keys that work anywhere on the page. */

/**
 * @param {{chat: import("./chat.js").Chat, composer: import("./view/composer.js").Composer, create: () => void,
 *   notices: import("./view/notices.js").Notices, settings: () => void, side: import("./view/side.js").SideView,
 *   talk: import("./view/talk.js").TalkView, help: () => void}} parts
 */
export function listenForShortcuts({ chat, composer, create, notices, settings, side, talk, help }) {
  /** With Alt, by place on the keyboard: with Alt, some keyboards write other letters. */
  const withAlt = /** @type {Record<string, () => void>} */ ({
    KeyN: create,
    KeyR: () => talk.again(),
    KeyC: () => side.focus(),
    KeyP: settings,
  });
  const plain = /** @type {Record<string, () => void>} */ ({ "?": help, "/": () => composer.focus() });

  const escape = () => {
    if (side.over) side.toggle(false);
    else if (chat.busy) chat.stop();
    else notices.close();
  };

  addEventListener("keydown", (event) => {
    // An open dialog has its own keys.
    if (event.isComposing || document.querySelector("dialog[open]") !== null) return;
    const modified = event.ctrlKey || event.metaKey;
    let action;
    if (event.key === "Escape") action = escape;
    else if (event.altKey && !modified && !event.shiftKey) action = withAlt[event.code];
    else if (!event.altKey && !modified && !writes(event.target)) action = plain[event.key];
    if (action === undefined) return;
    event.preventDefault();
    action();
  });
}

/** @param {EventTarget | null} target */
function writes(target) {
  return target instanceof HTMLElement && target.matches("input, textarea, select");
}
