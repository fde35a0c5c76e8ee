// The frame: which page is shown, the state of the connection, who looks. A page is a module with `show(view, place)`, which gives a function that ends it.
import { ask } from "./api.js";
import { toast } from "./dialog.js";
import { fill, h, say, told } from "./dom.js";
import { connect, onState } from "./live.js";

const view = document.getElementById("view");
const rooms = document.getElementById("rooms");
const menu = document.querySelector(".menu");
const pages = new Set([...rooms.querySelectorAll("a")].map((link) => link.pathname.slice(1)));
let end = () => {};
let turn = 0;

export const place = () => {
  const [page, ...rest] = location.pathname.slice(1).split("/");
  return { page, rest: rest.join("/"), query: new URLSearchParams(location.search) };
};

/** Go to an address of this console without loading the page anew. */
export function go(address, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"]({}, "", address);
  show();
}

async function show() {
  const here = place();
  const mine = (turn += 1);
  end();
  end = () => {};
  for (const link of rooms.querySelectorAll("a")) {
    if (link.pathname === `/${here.page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  rooms.classList.remove("open");
  menu.setAttribute("aria-expanded", "false");
  const title = rooms.querySelector("[aria-current]")?.textContent.trim();
  document.title = `${title ?? "Not found"} · monofs`;
  if (!pages.has(here.page)) {
    fill(view, h("div.card.empty", h("h1", "There is no such page"), h("p", h("a", { href: "/" }, "Go to the overview"))));
    return;
  }
  try {
    const module = await import(`./pages/${here.page || "overview"}.js`);
    if (mine !== turn) return;
    fill(view);
    end = module.show(view, here) ?? (() => {});
  } catch (error) {
    if (mine !== turn) return;
    console.error(error);
    fill(view, h("p.note.bad", "This page could not be shown: load it again. ", String(error.message)));
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || link.target || link.download) return;
  if (link.origin !== location.origin || !pages.has(link.pathname.slice(1).split("/")[0]) || link.hash) return;
  event.preventDefault();
  if (link.href !== location.href) { go(link.href); view.focus({ preventScroll: true }); scrollTo(0, 0); }
});
addEventListener("popstate", show);
menu.addEventListener("click", () => menu.setAttribute("aria-expanded", rooms.classList.toggle("open")));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { rooms.classList.remove("open"); menu.setAttribute("aria-expanded", "false"); } });
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea, dialog")) return;
  const search = view.querySelector("input[type=search], .goto input");
  if (search) { event.preventDefault(); search.focus(); search.select(); }
});
addEventListener("unhandledrejection", (event) => { if (event.reason?.message) toast(event.reason.message, "bad"); });

const dot = h("span.dot");
const words = h("span");
document.getElementById("standing").append(dot, words);
onState((state) => {
  dot.className = `dot ${state === "live" ? "good" : state === "lost" ? "bad" : "warn"}`;
  say(words, { live: "live", lost: "connection lost: trying again; what is shown is old", connecting: "connecting" }[state]);
});

const who = document.getElementById("who");
if (told.viewer.name !== "anonymous") {
  fill(who, told.viewer.name, told.viewer.admin ? "" : " (may not administer)", h("button.quiet", { type: "button", onclick: signOut }, "Sign out"));
}
async function signOut() {
  await fetch("/sign-out", { method: "POST", headers: { "x-csrf-token": told.csrf } });
  location.assign("/sign-in");
}

connect();
show();
export { ask };
