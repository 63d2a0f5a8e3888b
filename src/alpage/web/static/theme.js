/** Dark or light: the system's choice until the person makes another, which this browser keeps. */

import { write } from "./settings.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** @returns {boolean} */
export function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme === undefined ? DARK.matches : theme === "dark";
}

/** Change to the other. What the system says anyway is not kept, so that it goes on deciding. */
export function toggleTheme() {
  const dark = !isDark();
  const asSystem = dark === DARK.matches;
  if (asSystem) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = dark ? "dark" : "light";
  write("alpage.theme", asSystem ? null : dark ? "dark" : "light");
}

/**
 * Call this when the system changes its mind.
 * @param {() => void} listener
 */
export function onSystemTheme(listener) {
  DARK.addEventListener("change", listener);
}
