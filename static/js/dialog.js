// What lies over the page: questions, forms, short notes. <dialog> keeps the focus and Escape for us.
import { fill, h, icon } from "./dom.js";

/**
 * A dialog with a form; resolves with what `act()` gave, or null when it was left. `fields`: fields and nodes, in lists of any depth. What is wrong with a field stands at it, and it gets the
 * focus; `act` may throw: its message is shown, at the field that `blame(error)` gives or below all of them, and the form stays.
 */
export function form(title, { fields, act, button = "Save", danger = false, intro = null, blame = () => null }) {
  if (document.querySelector("dialog[open]")) return Promise.resolve(null); // a second click, while the first one's answer was on its way
  return new Promise((resolve) => {
    const all = [fields].flat(Infinity).filter(Boolean);
    const own = all.flatMap((each) => each.fields ?? (each.input ? [each] : []));
    const problem = h("div", { role: "alert" });
    const cancel = h("button", { type: "button", onclick: () => leave(null) }, "Cancel");
    const go = h(danger ? "button.main.danger" : "button.main", { type: "submit" }, button);
    const box = h("dialog", { "aria-labelledby": "dialog-title" },
      h("form", { method: "dialog", noValidate: true, onsubmit: submit },
        h("h2", { id: "dialog-title" }, title), intro, all.map((each) => each.element ?? each), problem,
        h("div.ends", cancel, go)));
    let over = false;
    function leave(value) {
      if (over) return;
      over = true;
      box.close();
      box.remove();
      resolve(value);
    }
    async function submit(event) {
      event.preventDefault();
      fill(problem);
      if (own.filter((each) => !each.element.hidden && !each.check(true)).length) return toWrong();
      go.disabled = true;
      go.setAttribute("aria-busy", "true");
      try {
        leave((await act()) ?? true);
      } catch (error) {
        const at = blame(error);
        if (at) at.say(`${error.message}${error.hint ? ` ${error.hint}` : ""}`);
        else fill(problem, h("p.note.bad", error.message, error.hint ? h("span.hint", ` ${error.hint}`) : null));
        toWrong();
      } finally {
        go.disabled = false;
        go.removeAttribute("aria-busy");
      }
    }
    const toWrong = () => box.querySelector("[aria-invalid=true]")?.focus();
    box.addEventListener("cancel", (event) => { event.preventDefault(); leave(null); });
    document.body.append(box);
    box.showModal();
    (box.querySelector("input, select, textarea") ?? (danger ? cancel : go)).focus(); // what cannot be undone is not one Enter away
  });
}

export const confirm = (title, text, act, { button = "Yes", danger = true } = {}) => form(title, { fields: h("p", text), act, button, danger });

/**
 * An input with its label, its hint and the place of its error: { element, input, value, check(), say(what is wrong) }. `check(value)` gives what is wrong, or ""; it is asked as one types, and
 * at the end for what is `required` too.
 */
export function field(label, { type = "text", value = "", hint = "", options = null, check = () => "", placeholder = "", required = false } = {}) {
  const id = `f${(field.last = (field.last ?? 0) + 1)}`;
  const isTick = type === "checkbox";
  const error = h("span.error", { id: `${id}-error`, "aria-live": "polite" });
  const described = { id, "aria-describedby": hint ? `${id}-hint ${id}-error` : `${id}-error`, placeholder, required };
  const input = options
    ? h("select", described, options.map((each) => { const [key, text] = Array.isArray(each) ? each : [each, each]; return h("option", { value: key, selected: key === value }, text); }))
    : h("input", { ...described, type, autocomplete: type === "password" ? "new-password" : "off", spellcheck: false, ...(isTick ? { checked: Boolean(value) } : { value }) });
  const now = () => (isTick ? input.checked : input.value);
  function say(wrong) {
    error.textContent = wrong;
    input.setAttribute("aria-invalid", Boolean(wrong));
    return !wrong;
  }
  const look = (isFinal = false) => say(isFinal && required && !isTick && !now().trim() ? "this is needed" : check(now()));
  input.addEventListener("input", () => look());
  const words = [h("label", { htmlFor: id }, label), hint ? h("span.hint", { id: `${id}-hint` }, hint) : null, error];
  const element = isTick ? h("div.field.line", input, h("div.words", words)) : h("div.field", words[0], input, words.slice(1));
  return { element, input, check: look, say, get value() { return now(); } };
}

/** Fields side by side where there is room. */
export const pairs = (...fields) => ({ fields, element: h("div.pairs", fields.map((each) => each.element)) });

export function toast(text, kind = "") {
  const line = h(`div.toast${kind ? "." + kind : ""}`, h("span", text), h("button.quiet", { type: "button", "aria-label": "Close this note", onclick: () => line.remove() }, icon("close")));
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), kind === "bad" ? 15000 : 5000);
}

/** Do something and say how it went. */
export async function attempt(act, done) {
  try {
    const value = await act();
    if (done) toast(typeof done === "function" ? done(value) : done);
    return value;
  } catch (error) {
    toast(error.hint ? `${error.message}: ${error.hint}` : error.message, "bad");
    return undefined;
  }
}
