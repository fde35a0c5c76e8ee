// The tree: a directory as a table whose first page is live and whose others are loaded as one comes to them, or a file with what is known of it.
import { get } from "../api.js";
import { attempt } from "../dialog.js";
import { chip, empty, facts, fill, h, icon, told } from "../dom.js";
import { bytes, count, exact, seconds, size, time } from "../format.js";
import { actions, control, menu, newDirectory } from "../files/actions.js";
import { bar } from "../files/bar.js";
import { jobLine } from "../files/job.js";
import { cacheMap } from "../files/map.js";
import { address, isAfter, nameOf, parentOf, pathOf, plain, shown } from "../files/names.js";
import { preview } from "../files/preview.js";
import { panel, upload } from "../files/uploads.js";
import { nowMs, watch } from "../live.js";
import { go, place as where } from "../main.js";
import { writeLayout } from "../policy_form.js";
import { table } from "../table.js";

let walked = null; // by keys: the next table takes the focus, and the keys that were pressed while it was on its way
const WALKING = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", "Enter"]);
const NOT_FOUND = 3001;
const NOT_A_DIRECTORY = 3003;

export function show(view, place) {
  const path = pathOf(place.rest);
  if (path === null) {
    view.append(h("div.head", h("h1", "Browse")), empty("This address names no path", h("p", h("a", { href: "/browse/" }, "Go to the root"))));
    return () => {};
  }
  document.title = `${plain(nameOf(path)) || "/"} · Browse · monofs`;
  const state = h("div", { role: "status", "aria-live": "polite" });
  const room = h("div", h("p.soft", "Looking…"));
  view.append(h("h1.sr", `Browse ${plain(path)}`), bar(path), state, panel, room);
  let page = null;
  let kind = "";

  const leave = watch(`file:${path}`, (value, topic) => {
    say(topic, value);
    if (!value) return;
    const isNew = !page || kind !== value.entry.type;
    if (isNew) {
      page?.end();
      kind = value.entry.type;
      page = kind === "directory" ? directoryPage(path, value) : filePage(path, value);
      fill(room, page.element);
    }
    page.take(value);
    if (isNew) page.begin();
  });

  function say(topic, value) {
    const error = topic.error;
    const gone = error && (error.code === NOT_FOUND || error.code === NOT_A_DIRECTORY);
    if (gone) arrive(null);
    room.classList.toggle("gone", Boolean(error && value));
    room.toggleAttribute("inert", Boolean(gone && value));
    const up = h("a", { href: address(parentOf(path)) }, "Go one level up");
    if (!error) { if (state.childNodes.length) fill(state); }
    else if (gone && value) fill(state, h("p.note.bad", `This ${kind} is not there any more: it was deleted or renamed. What is shown is what it was. `, up));
    else if (gone) { fill(state); fill(room, empty("There is nothing at this path", h("p", error.message), path === "/" ? null : h("p", up))); }
    else if (value) fill(state, h("p.note.warn", `It cannot be looked at now: ${error.message}. What is shown is old.`));
    else fill(room, h("p.note.bad", `${error.message} ${error.hint}`));
  }

  return () => { leave(); page?.end(); };
}

// Once for the page, and by its address: a key pressed while the next directory is on its way is not lost.
document.addEventListener("keydown", (event) => {
  const { page, rest } = where();
  const path = page === "browse" ? pathOf(rest) : null;
  if (path === null || event.defaultPrevented || document.querySelector("dialog[open]") || event.target.closest?.("input, select, textarea, pre") || event.ctrlKey || event.metaKey) return;
  if ((event.key === "Backspace" && !event.altKey) || (event.key === "ArrowUp" && event.altKey)) {
    event.preventDefault();
    if (path !== "/") walk(parentOf(path));
  } else if (walked && WALKING.has(event.key)) {
    event.preventDefault();
    walked.push(event.key);
  }
});

function walk(path) {
  walked = [];
  go(address(path));
}

/** What one walked to is there. `grid`: its table, if it has one. */
function arrive(grid) {
  const keys = walked;
  walked = null;
  if (!keys || !grid) return;
  grid.focus();
  queueMicrotask(() => { // once the page is drawn: a key may leave it
    while (keys.length && !walked) grid.press(keys.shift());
    walked?.push(...keys);
  });
}

const chips = (entry) => [
  entry.is_mount ? chip("mount point", "good") : null,
  entry.persistence === "cache-only" ? chip("cache only", "warn", "No store has it: it lives in worker caches") : null,
  entry.pinned ? chip("pinned", "", "Never evicted") : null,
];

// ---- a directory ----

function directoryPage(path, first) {
  let live = null; // the first page, by key, kept fresh by the topic
  const tail = new Map(); // what was loaded behind it, by key
  let cursor = first.next;
  let loading = false;
  let failed = false;
  let seen = null; // what the directory's own record was when the tail was loaded
  let changed = false;
  const columns = [
    { name: "name", title: "Name", wide: true, value: (row) => (row.type === "directory" ? "a/" : "b/") + row.name, cell: (row) => h("span.named", icon(row.type === "directory" ? "browse" : "file"), h("a", { href: address(row.path), tabIndex: -1 }, shown(row.name))) },
    { name: "state", title: "State", cell: (row) => h("span.chips", chips(row)) },
    { name: "size", title: "Size", right: true, value: (row) => (row.type === "directory" ? -1 : row.size), cell: (row) => (row.type === "directory" ? h("span.soft", "–") : size(row.size)) },
    { name: "modified", title: "Modified", value: (row) => row.mtime_ns, cell: (row) => time(row.mtime_ns, nowMs()) },
    { name: "do", title: "", cell: (row) => h("button.quiet", { type: "button", "aria-label": `Actions for ${plain(row.name)}`, onclick: () => menu(row, path) }, icon("more")) },
  ];
  const write = told.viewer.write;
  const grid = table(columns, {
    label: "Files", key: (row) => (row.type === "directory" ? `${row.name}/` : row.name), match: (row) => row.name,
    sort: cursor === null ? ["name", false] : undefined, open: (row) => walk(row.path), more: () => { if (!failed) load(); },
    empty: empty("This directory is empty", h("p", write ? "Upload files, make a directory, or write with any program: monofs fs upload FILE PATH." : "Files written to it show up here.")),
  });
  const picker = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files to upload", onchange: () => { upload(path, picker.files); picker.value = ""; } });
  const more = h("span.soft", { role: "status" });
  const self = h("div.choices-line");
  const about = h("details.about", h("summary", "About this directory"));
  const known = why();
  const job = jobLine();
  about.append(known.element);
  const tools = h("div.tools", grid.search, grid.tally, more, h("div.push", self,
    write ? [h("button", { type: "button", onclick: () => newDirectory(path) }, icon("plus"), "New directory"), h("button.main", { type: "button", onclick: () => picker.click() }, icon("upload"), "Upload"), picker] : null));
  const element = h("div.listing", tools, job.element, grid.element, about);
  if (write) dropping(element, path);

  function take(value) {
    known.show(value);
    job.show(value.why.job);
    const entry = value.entry;
    if (self.dataset.pinned !== String(entry.pinned)) {
      self.dataset.pinned = entry.pinned;
      fill(self, chips(entry), h("button", { type: "button", onclick: () => menu(value.entry, path, value.why) }, icon("more"), "This directory"));
    }
    const record = `${entry.mtime_ns} ${value.why.changed_index}`; // what changes with what lies in a directory
    if (tail.size && seen === null) seen = record;
    else if (tail.size && seen !== record && !loading) stale();
    if (value.entries === live) return;
    const keys = Object.keys(value.entries);
    if (value.next === null) { tail.clear(); cursor = null; }
    else if (live) {
      // What slid behind the first page's end is still there; what is missing before it is gone.
      let last = "";
      for (const key of keys) if (isAfter(key, last)) last = key;
      for (const [key, row] of Object.entries(live)) if (!Object.hasOwn(value.entries, key) && isAfter(key, last)) tail.set(key, row);
      if (cursor === null && !tail.size) cursor = value.next;
    }
    for (const key of keys) tail.delete(key);
    if (!tail.size && value.next !== null) cursor = value.next;
    live = value.entries;
    draw();
  }

  function draw() {
    grid.show([...Object.values(live), ...tail.values()]);
    if (!failed && !changed) fill(more, cursor === null ? null : loading ? "loading more…" : "more as you scroll");
  }

  async function load() {
    if (loading || cursor === null || !live) return;
    loading = true;
    fill(more, "loading more…");
    try {
      const page = await get("/files", { path, after: cursor });
      for (const row of page.entries) {
        const key = row.type === "directory" ? `${row.name}/` : row.name;
        if (!(key in live)) tail.set(key, row);
      }
      cursor = page.next;
      seen = null; // loading may have changed the record itself
    } catch (error) {
      failed = true;
      fill(more, h("span.chip.bad", error.message), h("button.quiet", { type: "button", onclick: () => { failed = false; load(); } }, "Load more"));
    }
    loading = false;
    draw();
  }

  function stale() {
    if (changed) return;
    changed = true;
    fill(more, chip("changed since it was loaded", "warn"), h("button.quiet", { type: "button", onclick: () => go(address(path), { replace: true }) }, icon("refresh"), "Load again"));
  }

  return {
    element, take, end() { job.end(); grid.end(); },
    begin: () => arrive(grid),
  };
}

function dropping(element, path) {
  element.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) { event.preventDefault(); element.classList.add("drop"); } });
  element.addEventListener("dragleave", (event) => { if (!element.contains(event.relatedTarget)) element.classList.remove("drop"); });
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("drop");
    const items = [...event.dataTransfer.items];
    const files = items.filter((item) => item.webkitGetAsEntry?.()?.isFile !== false).map((item) => item.getAsFile()).filter(Boolean);
    if (files.length < items.length) attempt(() => { throw new Error("Directories are not uploaded from here: monofs fs upload -r DIRECTORY PATH"); });
    if (files.length) upload(path, files);
  });
}

// ---- a file ----

function filePage(path, first) {
  const buttons = h("div.choices-line");
  const job = jobLine();
  const details = h("div");
  const map = cacheMap();
  const look = preview(path, first.entry.name);
  const known = why();
  const element = h("div.file", buttons, job.element, h("div.grid", h("section.card.live", h("h2", "File"), details), map.element), look.element, h("section.card", h("h2", "Why"), h("p.hint", "What the masters and workers know of this path."), known.element));
  let drawn = "";
  let content = null;

  function take(value) {
    const { entry, why } = value;
    const now = JSON.stringify([entry, why.store, why.ttl, why.policy, why.persistence, why.moves_to, why.intents]);
    if (now !== drawn) {
      drawn = now;
      fill(buttons, choices(entry, path, why), chips(entry));
      fill(details, attributes(entry, why));
    }
    job.show(why.job);
    if (value.map) map.show(value.map);
    known.show(value);
    if (content !== null && content !== entry.content + entry.mtime_ns) look.load();
    content = entry.content + entry.mtime_ns;
  }

  return { element, take, begin() { arrive(null); look.load(); }, end: job.end };
}

/** The actions that stand on the page, and the rest behind one button. */
function choices(entry, path, why) {
  const all = actions(entry, path, why);
  const rest = all.filter((each) => !each.isFirst);
  return [all.filter((each) => each.isFirst).map((each) => control(each)), rest.length > 1 ? h("button", { type: "button", onclick: () => menu(entry, path, why, rest) }, icon("more"), "More") : rest.map((each) => control(each))];
}

function attributes(entry, why) {
  return facts([
    ["Path", h("span.mono", shown(entry.path))],
    ["Size", h("span", size(entry.size), entry.size >= 1000 ? h("span.soft", ` (${exact(entry.size)} bytes)`) : null)],
    ["Modified", time(entry.mtime_ns, nowMs())],
    ["Mode", h("span", h("span.mono", entry.mode), ` of user ${entry.uid}, group ${entry.gid}`)],
    ["Mount", why.mount ? h("a", { href: address(why.mount) }, shown(why.mount)) : "none: it lives in worker caches only"],
    why.store ? ["In the store", h("span.mono", shown(why.store))] : null,
    why.moves_to ? ["Moves to", h("span.mono", shown(why.moves_to))] : null,
    why.store_error ? ["Store", chip(why.store_error, "bad")] : null,
    ["Persistence", h("span", why.persistence ?? entry.persistence)],
    ["Content id", h("span.mono", entry.content ?? "none: it is empty")],
    ["Fingerprint", h("span.mono", entry.fingerprint ?? "none: no store has it")],
    why.ttl ? ["Time to live", h("span", `${why.ttl.action} `, time(why.ttl.expires_ns, nowMs()), why.ttl.path === entry.path ? null : [", set on ", shown(why.ttl.path)])] : null,
    why.policy ? ["Policy", h("span", "of ", shown(why.policy.path), `: ${words(why.policy, ["path"])}`)] : null,
  ]);
}

// ---- why ----

const words = (record, without = []) => Object.entries(record).filter(([name, value]) => value !== null && !without.includes(name)).map(([name, value]) => `${titled(name)} ${said(name, value)}`).join(", ") || "nothing set";
const titled = (name) => name.replace(/_(s|ns|bytes)$/, "").replaceAll("_", " ");

/** A fact's value as text. */
function said(name, value) {
  if (name.endsWith("_s") && typeof value === "number") return value < 0 ? "never" : seconds(value);
  if (name.endsWith("_bytes") && typeof value === "number") return bytes(value);
  if (name === "layout") return writeLayout(value);
  if (Array.isArray(value)) return value.length ? value.map((each) => (each !== null && typeof each === "object" ? words(each) : String(each))).join(", ") : "none";
  return value !== null && typeof value === "object" ? words(value) : String(value);
}

function why() {
  const element = h("div");
  let drawn = "";
  function fact(name, value) {
    if (value === null || value === "") return "–";
    if (name.endsWith("_ns")) return time(value, nowMs());
    if (name === "size") return size(value);
    return typeof value === "number" && !/_|layout/.test(name) ? count(value) : shown(said(name, value));
  }
  return {
    element,
    show({ why: told }) {
      const now = JSON.stringify({ ...told, age_s: Math.floor((told.age_s ?? 0) / 5) });
      if (now === drawn) return;
      drawn = now;
      fill(element, facts(Object.entries(told).filter(([name, value]) => name !== "path" && value !== "").map(([name, value]) => [titled(name), fact(name, value)]), { columns: true }));
    },
  };
}
