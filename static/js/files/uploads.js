// Files on their way into the namespace, in pieces the console takes one by one. They go on while one looks at other pages of the console.
import { ask, post } from "../api.js";
import { toast } from "../dialog.js";
import { fill, h, icon } from "../dom.js";
import { bytes, bytesRate } from "../format.js";
import { address, join, parentOf, plain, shown } from "./names.js";

const AT_ONCE = 2;
const TRIES = 6;
const items = [];
const list = h("ul.uploads");
const clear = h("button.quiet", { type: "button", onclick: () => { for (const each of items.filter((each) => each.state !== "waiting" && each.state !== "sending")) drop(each); } }, "Clear");
export const panel = h("section.card", { "aria-label": "Uploads", hidden: true }, h("div.head", h("h2", "Uploads"), h("div.push", clear)), list);

/** Files of the browser into a directory. */
export function upload(directory, files) {
  for (const file of files) add(file, join(directory, file.name));
  pump();
}

function add(file, path) {
  const item = { file, path, state: "waiting", sent: 0, replace: false, stop: new AbortController() };
  item.bar = h("progress", { max: Math.max(1, file.size), value: 0, "aria-label": `Upload of ${plain(file.name)}` });
  item.words = h("span.soft", { role: "status" }, "waits");
  item.ends = h("span");
  item.line = h("li", h("a", { href: address(parentOf(path)), title: plain(path) }, shown(file.name)), item.bar, item.words, item.ends);
  items.push(item);
  list.append(item.line);
  become(item, "waiting", "waits");
}

function become(item, state, words) {
  item.state = state;
  item.words.textContent = words;
  const cancel = h("button.quiet", { type: "button", onclick: () => { item.stop.abort(); if (item.state === "waiting") become(item, "failed", "given up"); } }, "Cancel");
  const again = (text, replace) => h("button", { type: "button", onclick: () => { item.replace = replace; item.stop = new AbortController(); item.sent = 0; become(item, "waiting", "waits"); pump(); } }, text);
  const away = h("button.quiet", { type: "button", "aria-label": `Forget the upload of ${plain(item.file.name)}`, onclick: () => drop(item) }, icon("close"));
  fill(item.ends, state === "waiting" || state === "sending" ? cancel : state === "exists" ? [again("Replace it", true), away] : state === "failed" ? [again("Again", item.replace), away] : away);
  item.line.dataset.state = state;
  panel.hidden = !items.length;
}

function drop(item) {
  items.splice(items.indexOf(item), 1);
  item.line.remove();
  panel.hidden = !items.length;
}

function pump() {
  const sending = items.filter((each) => each.state === "sending").length;
  for (const item of items.filter((each) => each.state === "waiting").slice(0, AT_ONCE - sending)) send(item).finally(pump);
}

async function send(item) {
  become(item, "sending", "begins");
  let begun = null;
  try {
    begun = await post("/uploads", { path: item.path, replace: item.replace });
    const since = performance.now();
    while (item.sent < item.file.size) {
      item.stop.signal.throwIfAborted();
      const piece = item.file.slice(item.sent, item.sent + begun.piece_max_bytes);
      item.sent = await patient(() => ask("PUT", `/uploads/${begun.id}`, { query: { offset: item.sent }, body: piece, signal: item.stop.signal })).then((told) => told.received);
      item.bar.value = item.sent;
      item.words.textContent = `${bytes(item.sent)} of ${bytes(item.file.size)}, ${bytesRate((1000 * item.sent) / (performance.now() - since))}`;
    }
    item.stop.signal.throwIfAborted();
    await ask("POST", `/uploads/${begun.id}/end`, { query: { size: item.file.size } });
    item.bar.value = item.bar.max;
    become(item, "done", `${bytes(item.file.size)}, done`);
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (begun) ask("DELETE", `/uploads/${begun.id}`).catch(() => {});
    if (error.code === 3002) become(item, "exists", "a file of this name exists");
    else become(item, "failed", stopped ? "given up: nothing of it is there" : `failed: ${error.message}`);
    if (!stopped && error.code !== 3002) toast(`${plain(item.file.name)}: ${error.message}`, "bad");
  }
}

// A piece is counted once however often it is sent, so a lost answer is only asked for again.
async function patient(act) {
  for (let left = TRIES, pause = 400; ; left -= 1, pause *= 2) {
    try {
      return await act();
    } catch (error) {
      if (!error.retry || !left) throw error;
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

addEventListener("beforeunload", (event) => { if (items.some((each) => each.state === "sending" || each.state === "waiting")) event.preventDefault(); });
