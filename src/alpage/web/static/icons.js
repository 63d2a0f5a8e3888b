/** Small line drawings, on a field of 20 by 20. */

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  add: ["M10 4v12", "M4 10h12"],
  again: ["M16 10a6 6 0 1 1-2-4.5", "M14.5 2.5v3.5H11"],
  attach: ["M15 9.5l-5 5a3.2 3.2 0 0 1-4.5-4.5l5.5-5.5a2.1 2.1 0 0 1 3 3L8.5 13a1 1 0 0 1-1.5-1.5L11.5 7"],
  check: ["M4.5 10.5l3.5 3.5 7.5-8"],
  close: ["M5 5l10 10", "M15 5L5 15"],
  copy: ["M8 7h8v9H8z", "M5 13H4V4h8v1"],
  down: ["M5 8l5 5 5-5"],
  edit: ["M4 16l1-4 8-8 3 3-8 8z", "M11 6l3 3"],
  file: ["M5 3h7l3 3v11H5z", "M12 3v3h3"],
  help: ["M7.5 7.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7", "M10 14.5v.2"],
  left: ["M12 5l-5 5 5 5"],
  menu: ["M4 6h12", "M4 10h12", "M4 14h12"],
  moon: ["M16 11.5A6.5 6.5 0 1 1 8.5 4a5 5 0 0 0 7.5 7.5z"],
  out: ["M10 3v9", "M6.5 8.5L10 12l3.5-3.5", "M4 16h12"],
  right: ["M8 5l5 5-5 5"],
  send: ["M10 16V5", "M5 9.5L10 4.5l5 5"],
  stop: ["M6 6h8v8H6z"],
  sun: ["M10 7a3 3 0 1 1 0 6 3 3 0 0 1 0-6z", "M10 2.5v1.5", "M10 16v1.5", "M2.5 10H4", "M16 10h1.5",
    "M4.7 4.7l1 1", "M14.3 14.3l1 1", "M4.7 15.3l1-1", "M14.3 5.7l1-1"],
  remove: ["M4 6h12", "M8 6V4h4v2", "M6 6l.7 10h6.6L14 6"],
  tune: ["M4 6h6", "M14 6h2", "M12 4v4", "M4 14h2", "M10 14h6", "M8 12v4"],
  upload: ["M10 12V3", "M6.5 6.5L10 3l3.5 3.5", "M4 16h12"],
};

/**
 * A drawing that screen readers pass over.
 * @param {keyof typeof PATHS} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 20 20");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  for (const line of PATHS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", line);
    drawing.append(path);
  }
  return drawing;
}
