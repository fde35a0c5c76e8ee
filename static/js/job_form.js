// The form of a job: what kinds there are and what each may be told comes from /jobs/kinds.
import { get, post } from "./api.js";
import { attempt, field, form, pairs } from "./dialog.js";
import { h } from "./dom.js";
import { checkSize, readSize } from "./units.js";

const TITLES = { load: "Load into the cache", free: "Free from the cache", sync: "Look at the store again" };
const OF_MANY = new Set(["metadata_only", "index"]);
const BUTTONS = { load: "Load", free: "Free", sync: "Look" };
export const isPath = (text) => (text.startsWith("/") ? "" : "a path begins with /");

/** Resolves with the job that was begun, or null. `kind` and `path`: what it is to be; not given, they are asked for. `isFile`: what is said of many is left out. */
export async function jobForm({ kind = null, path = null, about = null, isFile = false } = {}) {
  const kinds = await attempt(() => get("/jobs/kinds"));
  if (!kinds) return null;
  const forms = Object.fromEntries(Object.entries(kinds).map(([name, each]) => [name, Object.entries(each.arguments).filter(([argument]) => !isFile || !OF_MANY.has(argument)).map(([argument, told]) => [argument, argumentField(told)])]));
  const what = field("What", { options: Object.keys(kinds).map((name) => [name, TITLES[name] ?? name]), value: kind ?? "load" });
  const at = field("Path", { value: path ?? "/", required: true, hint: "and everything below it", check: isPath });
  const doc = h("p.hint");
  function draw() {
    doc.textContent = kinds[what.value].doc;
    for (const [name, list] of Object.entries(forms)) for (const [, each] of list) each.element.hidden = name !== what.value;
  }
  what.input.addEventListener("input", draw);
  draw();
  const given = () => Object.fromEntries(forms[what.value].map(([name, each]) => [name, each.read()]).filter(([, text]) => text));
  return form(kind ? TITLES[kind] : "New job", {
    intro: about, button: kind ? BUTTONS[kind] : "Begin",
    fields: [kind ? null : what, doc, path ? null : at, pairs(...Object.values(forms).flat().map(([, each]) => each))],
    act: () => post("/jobs", { kind: what.value, path: path ?? at.value, arguments: given() }),
    blame: (error) => [...forms[what.value], ["path", path ? null : at]].find(([name]) => error.message.startsWith(name))?.[1] ?? null,
  });
}

/** A field of an argument, which reads as the job wants it: text, "" for what it does by itself. */
function argumentField({ title, doc, kind, choices, least, most }) {
  const settings = {
    boolean: { type: "checkbox" },
    size: { placeholder: "no bound", check: checkSize },
    integer: { placeholder: "as policies say", check: (text) => (!text || (/^\d+$/.test(text) && text >= least && text <= most) ? "" : `a whole number from ${least} to ${most}`) },
    choice: { options: [["", "no"], ...Object.entries(choices)] },
    path: { placeholder: "none", check: (text) => (text ? isPath(text) : "") },
  }[kind];
  const made = field(title, { hint: doc, ...settings });
  if (kind === "integer") made.input.inputMode = "numeric";
  made.read = () => (kind === "boolean" ? (made.value ? "true" : "") : kind === "size" ? (made.value ? String(readSize(made.value)) : "") : made.value);
  return made;
}
