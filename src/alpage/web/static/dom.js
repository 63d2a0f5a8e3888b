/**
 * Elements made by calls. Nothing here takes HTML: text becomes text nodes, and attributes that
 * could run or load something are refused.
 */

const REFUSED = /^(on|style$|src$|srcdoc$|formaction$)/i;

/**
 * @typedef {Node | string | null | undefined | false} Child nothing is made of null and false
 * @typedef {Record<string, string | number | boolean | null | undefined>} Attributes
 */

/**
 * A new element. An attribute that is true is set without a value; false, null and undefined are
 * left out.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (REFUSED.test(name)) throw new Error(`the attribute ${name} is not set this way`);
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, String(value));
  }
  made.append(...present(children));
  return made;
}

/**
 * @param {Child[]} children
 * @returns {(Node | string)[]}
 */
function present(children) {
  return /** @type {(Node | string)[]} */ (children.filter((child) => child != null && child !== false));
}

/**
 * The element of this id, which the page has.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element ${id}`);
  return found;
}

/**
 * A button with a text or an icon; `label` is what is read aloud and shown as a tip.
 * @param {{label: string, icon?: Node, text?: string, kind?: string, disabled?: boolean}} what
 * @param {(event: MouseEvent) => void} action
 * @returns {HTMLButtonElement}
 */
export function button({ label, icon, text, kind = "quiet", disabled = false }, action) {
  const tip = text === undefined ? label : undefined;
  const aria = text === undefined || text !== label ? label : undefined;
  const made = el(
    "button",
    { type: "button", class: `button ${kind}`, "aria-label": aria, title: tip, disabled },
    icon,
    text,
  );
  made.addEventListener("click", action);
  return made;
}
