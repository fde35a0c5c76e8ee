// Paths and names as people see them. A name may hold anything but `/` and NUL: what cannot be seen, or turns the direction of writing, is shown as what it is.
import { h } from "../dom.js";

/** The address of a path's page: each name is encoded by itself, so no name can be taken for a query, a fragment or another path. */
export const address = (path) => (path === "/" ? "/browse/" : `/browse${path.split("/").map((name) => encodeURIComponent(name.toWellFormed?.() ?? name)).join("/")}`);

/** The path an address names; null: it names none. */
export function pathOf(rest) {
  try {
    return `/${rest.split("/").filter(Boolean).map(decodeURIComponent).join("/")}`;
  } catch {
    return null;
  }
}

export const parentOf = (path) => path.slice(0, Math.max(1, path.lastIndexOf("/")));
export const nameOf = (path) => path.slice(path.lastIndexOf("/") + 1);
export const join = (directory, name) => (directory === "/" ? `/${name}` : `${directory}/${name}`);

const ODD = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0]|^ | $/gu;
const SAID = { "\n": "line break", "\r": "carriage return", "\t": "tab", " ": "space at an end", "\u200b": "zero width space", "\u202a": "writing direction", "\u202b": "writing direction", "\u202d": "writing direction", "\u202e": "right-to-left override", "\u200e": "left-to-right mark", "\u200f": "right-to-left mark" };

/** A name as an element: isolated, so that its direction does not reach beyond it. */
export function shown(name) {
  const parts = [];
  let from = 0;
  for (const match of name.matchAll(ODD)) {
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.push(name.slice(from, match.index), h("span.odd", { title: `${SAID[match[0]] ?? "not visible"}, U+${code}` }, match[0] === " " ? "␣" : match[0] === "\n" ? "↵" : `⟨${code}⟩`));
    from = match.index + match[0].length;
  }
  parts.push(name.slice(from));
  return h("bdi.name", parts.filter((part) => part !== ""));
}

/** As text, where no elements can stand: titles, questions. */
export const plain = (name) => name.replace(ODD, (each) => (each === " " ? "␣" : each === "\n" ? "↵" : `⟨${each.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`));

/** Whether key `a` stands after key `b` where keys are compared as bytes: by code points, not by the units of JavaScript's strings. */
export function isAfter(a, b) {
  const left = [...a];
  const right = [...b];
  for (let at = 0; at < left.length && at < right.length; at += 1) {
    if (left[at] !== right[at]) return left[at].codePointAt(0) > right[at].codePointAt(0);
  }
  return left.length > right.length;
}
