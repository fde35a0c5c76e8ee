// Where one is: the names of the path as links, and a field to go anywhere, which offers what begins so.
import { get } from "../api.js";
import { h, fill } from "../dom.js";
import { go } from "../main.js";
import { address, shown } from "./names.js";

const PAUSE_MS = 120;

export function bar(path) {
  const names = path === "/" ? [] : path.slice(1).split("/");
  const last = names.length - 1;
  const crumbs = h("ol.crumbs", h("li", h("a", { href: "/browse/", "aria-current": last < 0 ? "page" : null, title: "The root" }, "/")),
    names.map((name, at) => h("li", h("a", { href: address(`/${names.slice(0, at + 1).join("/")}`), "aria-current": at === last ? "page" : null }, shown(name)))));
  const offers = h("datalist", { id: "paths" });
  // A field holds no line breaks: a path that has some is not in it.
  const input = h("input.mono", { "aria-label": "Go to a path", placeholder: "Go to a path", value: /[\r\n]/.test(path) ? "" : path, spellcheck: false, autocomplete: "off", enterKeyHint: "go", oninput: complete, onfocus: complete });
  input.setAttribute("list", "paths");
  let timer = 0;
  let turn = 0;

  function complete() {
    clearTimeout(timer);
    timer = setTimeout(offer, PAUSE_MS);
  }
  async function offer() {
    const mine = (turn += 1);
    const told = input.value.startsWith("/") ? await get("/files/completions", { path: input.value }).catch(() => null) : null;
    if (mine !== turn) return;
    fill(offers, (told?.paths ?? []).filter((each) => !/[\r\n]/.test(each)).map((each) => h("option", { value: each })));
  }
  function leave(event) {
    event.preventDefault();
    const wanted = `/${input.value.split("/").filter(Boolean).join("/")}`;
    go(address(wanted));
  }
  return h("div.whereabouts", h("nav", { "aria-label": "Path" }, crumbs), h("form.goto", { onsubmit: leave, role: "search" }, input, offers, h("button", { type: "submit" }, "Go")));
}
