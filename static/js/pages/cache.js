// What the cache holds and why: the working set over time, what is hot, what left, and the policies that say what stays.
import { ask } from "../api.js";
import { charts } from "../chart.js";
import { confirm, toast } from "../dialog.js";
import { chip, empty, facts, fill, h, icon, meter, say, told } from "../dom.js";
import { bytes, bytesRate, count, date, exact, percent, since, size } from "../format.js";
import { nowMs, watch } from "../live.js";
import { policyForm, writeLayout } from "../policy_form.js";
import { rates } from "../rates.js";
import { table } from "../table.js";
import { writeDuration, writeInterval } from "../units.js";

const TABS = [["", "Working set"], ["hot", "What is hot"], ["left", "What left"], ["policies", "Policies"]];
const REASONS = { ahead: "ahead of need, in the background", room: "a page waited for their room", quota: "their policy's quota was lowered or full", count: "too many groups" };
const REFUSED = { full: "there was no room", quota: "their policy's quota was full", unusable: "no disk could take them", no_cache: "their reader asked for that" };
const WHY = { evicted: ["evicted", "", "to make room"], freed: ["freed", "", "by command or by a TTL of its path"], retired: ["replaced", "", "its file has other content now, or is gone"], expired: ["expired", "", "its policy's time to live was over"], damaged: ["damaged", "bad", "its bytes were not what they had been"] };
const browse = (path) => `/browse${path.split("/").map(encodeURIComponent).join("/")}`;
const named = (row) => (row.path ? h("a.mono", { href: browse(row.path), title: row.path }, row.path) : h("span.soft", { title: "No path is known to have this content now: it was replaced or renamed, or lies under no mount." }, `content ${row.content}`));
const ago = (ns) => (ns ? h("time", { dateTime: new Date(ns / 1e6).toISOString(), title: date(ns / 1e6) }, since(ns / 1e6, nowMs())) : "–");
const old = (topic) => (topic.error ? h("p.note.bad", `What is shown is old: ${topic.error.message}. `, topic.error.hint) : null);

export function show(view, here) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const push = h("div.push");
  view.append(h("div.head", h("h1", "Cache"), h("nav.tabs", { "aria-label": "Parts of the cache" }, TABS.map(([name, text]) => h("a", { href: name ? `/cache/${name}` : "/cache", "aria-current": name === here.rest ? "page" : null }, text))), push), trouble);
  view.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  return ({ hot, left, policies }[here.rest] ?? workingSet)(view, trouble, push);
}

/** Calls `draw` with what the workers told, and says who did not. */
const watchCache = (trouble, draw) => watch("cache", (value, topic) => {
  fill(trouble, old(topic), !topic.error && value?.missing.length ? h("p.note.warn", `Not counted: ${value.missing.join(", ")}${value.unanswered > value.missing.length ? ` and ${exact(value.unanswered - value.missing.length)} more` : ""} did not answer.`) : null);
  if (value && !topic.error) draw(value, topic);
});

function workingSet(view, trouble, push) {
  const plots = charts(3600);
  const tiles = {};
  const tile = (name, label) => { tiles[name] = { value: h("span.value", "–"), more: h("span.more") }; return h("div.card.tile.live", h("span.label", label), tiles[name].value, tiles[name].more); };
  const put = (name, text, more, title = "") => { say(tiles[name].value, text, title); say(tiles[name].more, more); };
  const tiers = h("section.card.live");
  const why = h("section.card.live");
  push.append(plots.chooser);
  view.append(
    h("div.grid.tiles.eight", tile("used", "Cached"), tile("hit", "Hit ratio, now"), tile("evicted", "Evicted, now"), tile("kept", "In no store")),
    h("div.grid.four",
      plots.add("Working set", [{ series: "used_bytes", label: "cached", fill: true }, { series: "capacity_bytes", label: "room" }], bytes),
      plots.add("Hit ratio", [{ series: "hit_ratio", label: "pages that were cached", fill: true }], percent, { most: 1 }),
      plots.add("Brought and evicted", [{ series: "store_read_bytes_s", label: "from stores", fill: true }, { series: "peer_bytes_s", label: "from other workers" }, { series: "evicted_bytes_s", label: "evicted" }], bytesRate),
      plots.add("Served", [{ series: "cache_bytes_s", label: "from the cache" }, { series: "descriptor_bytes_s", label: "opened on its machine" }, { series: "through_bytes_s", label: "past the cache" }], bytesRate, { stacked: true })),
    h("div.grid", tiers, why));
  const measure = rates();
  const leave = [
    watch("now", (value) => { if (value) { put("hit", percent(value.values.hit_ratio), value.values.hit_ratio === null ? "nothing was asked for" : "of the pages asked for"); put("evicted", bytesRate(value.values.evicted_bytes_s), ""); } }),
    watchCache(trouble, (value, topic) => {
      const rows = Object.entries(value.tiers);
      const sum = (name) => rows.reduce((total, [, tier]) => total + tier[name], 0);
      const [used, room] = [sum("used_bytes"), sum("capacity_bytes")];
      put("used", room ? percent(used / room) : "–", `${bytes(used)} of ${bytes(room)}`, `${exact(used)} bytes`);
      put("kept", bytes(value.kept_bytes), value.kept_bytes ? "files of type MUST_CACHE: never evicted" : "every file is in its store", exact(value.kept_bytes));
      fill(tiers, h("h2", `Tiers of ${value.workers} ${value.workers === 1 ? "worker" : "workers"}`), rows.length ? rows.map(([name, tier]) => h("div.tier",
        h("div.line", h("strong", name), tier.unusable ? chip(`${tier.unusable} of ${tier.directories} directories full or unusable`, "warn") : null),
        meter(`${name}: ${percent(tier.capacity_bytes ? tier.used_bytes / tier.capacity_bytes : 0)} used`, [tier.capacity_bytes ? (tier.used_bytes - tier.pinned_bytes) / tier.capacity_bytes : 0, "", "used"], [tier.capacity_bytes ? tier.pinned_bytes / tier.capacity_bytes : 0, "c3", "pinned"]),
        h("div.soft", `${bytes(tier.used_bytes)} of ${bytes(tier.capacity_bytes)}, ${exact(tier.groups)} groups, ${bytes(tier.pinned_bytes)} pinned`),
        Object.entries(tier.moved_bytes).map(([direction, moved]) => h("div.soft", `${bytes(moved)} ${direction}`)))) : h("p.hint", "No worker has told its tiers."));
      const evicted = {};
      for (const [, tier] of rows) for (const [reason, amount] of Object.entries(tier.evicted_bytes)) evicted[reason] = (evicted[reason] ?? 0) + amount;
      const now = measure(topic.at, evicted) ?? {};
      const reads = Object.entries(value.not_admitted).filter(([, number]) => number);
      fill(why, h("h2", "Evicted, and why"), Object.keys(evicted).length ? facts(Object.entries(evicted).map(([reason, amount]) => [REASONS[reason] ?? reason, h("span", size(amount), now[reason] ? h("span.soft", ` (${bytesRate(now[reason])} now)`) : "")])) : h("p.hint", "Nothing was evicted: all that was read has had room."),
        h("h2.next", "Served without caching, and why"), reads.length ? facts(reads.map(([reason, number]) => [REFUSED[reason] ?? reason, h("span", { title: exact(number) }, `${count(number)} reads`)])) : h("p.hint", "Nothing: all that was read was cached."),
        h("p.hint", "Since each worker began."));
    }),
  ];
  return () => { leave.forEach((each) => each()); plots.stop(); };
}

function hot(view, trouble) {
  const list = table([
    { name: "path", title: "File", value: (row) => row.path || row.content, wide: true, cell: named },
    { name: "reads", title: "Reads, lately", right: true, value: (row) => row.reads, cell: (row) => h("span", { title: "of its groups (64 MiB), one a second at most; each read counts half after ten minutes" }, row.reads >= 10 ? count(Math.round(row.reads)) : row.reads.toFixed(1)) },
    { name: "read", title: "Last read", value: (row) => row.read_ns, cell: (row) => ago(row.read_ns) },
    { name: "cached", title: "Cached", right: true, value: (row) => row.cached_bytes, cell: (row) => size(row.cached_bytes) },
    { name: "size", title: "Size", right: true, value: (row) => row.size, cell: (row) => size(row.size) },
    { name: "tiers", title: "Tiers", value: (row) => row.tiers.join(" "), cell: (row) => row.tiers.join(", ") },
    { name: "workers", title: "Workers", right: true, value: (row) => row.workers, cell: (row) => String(row.workers) },
    { name: "pinned", title: "", cell: (row) => (row.pinned ? chip("pinned") : "") },
  ], { label: "Hot files", key: (row) => row.content, sort: ["reads", true], match: (row) => `${row.path} ${row.content} ${row.tiers.join(" ")}`, empty: empty("Nothing was read again lately", h("p", "What is read from the cache more than once shows here, hottest first.")) });
  view.append(h("p.hint", "What clients read most from live workers; a read counts half after ten minutes."), h("div.tools", list.search, list.tally), h("div.live.snug", list.element));
  return watchCache(trouble, (value) => list.show(value.hot));
}

function left(view, trouble) {
  const list = table([
    { name: "at", title: "When", value: (row) => row.at_ns, cell: (row) => ago(row.at_ns) },
    { name: "why", title: "Why", value: (row) => row.why, cell: (row) => { const [text, kind, title] = WHY[row.why] ?? [row.why, "", ""]; return chip(text, kind, title); } },
    { name: "path", title: "File", value: (row) => row.path || row.content, wide: true, cell: named },
    { name: "group", title: "Part", right: true, value: (row) => row.group, cell: (row) => h("span", { title: "groups of 64 MiB, from 0" }, String(row.group)) },
    { name: "worker", title: "Worker", right: true, value: (row) => row.worker, cell: (row) => h("a", { href: `/workers/${row.worker}` }, String(row.worker)) },
  ], { label: "What left the cache", key: (row) => `${row.worker} ${row.content} ${row.group} ${row.at_ns}`, sort: ["at", true], match: (row) => `${row.path} ${row.content} ${row.why} worker ${row.worker}`, empty: empty("Nothing left the cache lately", h("p", "Evicted, freed, replaced and expired parts of files show here, the last first.")) });
  view.append(h("p.hint", "The last parts of files that left the caches of live workers."), h("div.tools", list.search, list.tally), h("div.live.snug", list.element));
  return watchCache(trouble, (value) => list.show(value.left));
}

// ---- policies ----

function usage(row) {
  if (!row.quota_bytes) return size(row.used_bytes);
  const room = row.quota_bytes;
  return h("span.usage", meter(`${percent(row.used_bytes / room)} of its quota`, [row.used_bytes / room, row.used_bytes > 0.98 * room ? "c2" : "", ""]),
    h("span", { title: `${exact(row.used_bytes)} bytes of ${exact(room)}, on all workers together` }, `${bytes(row.used_bytes)} of ${bytes(room)}`));
}

function policies(view, trouble, push) {
  let known = {};
  const add = async () => { const made = await policyForm(null, () => known); if (made) toast(`${made.path} has a policy now`); };
  const change = async (path) => { if (known[path] && (await policyForm(known[path], () => known))) toast(`The policy of ${path} is changed`); };
  const remove = async (path) => { if (await confirm(`Remove the policy of ${path}`, "What lies above it holds again for everything below. Nothing cached is dropped by that.", () => ask("PUT", "/policies", { body: { path } }), { button: "Remove it" })) toast(`${path} has no policy any more`); };
  const list = table([
    { name: "path", title: "Path", value: (row) => row.path, wide: true, cell: (row) => h("a.mono", { href: browse(row.path), title: row.path }, row.path) },
    { name: "used", title: "Cached", value: (row) => row.used_bytes, cell: usage },
    { name: "priority", title: "Priority", value: (row) => row.priority, cell: (row) => row.priority ?? "–" },
    { name: "copies", title: "Copies", right: true, value: (row) => row.replicas, cell: (row) => row.replicas ?? "–" },
    { name: "layout", title: "Layout", value: (row) => row.layout, cell: (row) => writeLayout(row.layout) || "–" },
    { name: "ttl", title: "Time to live", right: true, value: (row) => row.ttl_s, cell: (row) => writeDuration(row.ttl_s) || "–" },
    { name: "sync", title: "Looked at again", value: (row) => row.sync_interval_s, cell: (row) => (row.sync_interval_s === null ? "–" : writeInterval(row.sync_interval_s)) },
    { name: "write", title: "Written", value: (row) => row.write_type, cell: (row) => row.write_type ?? "–" },
    { name: "act", title: "", stuck: true, cell: (row) => (told.viewer.admin ? h("span.acts", h("button", { type: "button", "aria-label": `Change the policy of ${row.path}`, onclick: () => change(row.path) }, "Change"), h("button.danger", { type: "button", "aria-label": `Remove the policy of ${row.path}`, onclick: () => remove(row.path) }, "Remove")) : "") },
  ], {
    label: "Policies", key: (row) => row.path, sort: ["path", false], match: (row) => `${row.path} ${row.priority ?? ""} ${row.write_type ?? ""}`,
    empty: empty("No policies yet", h("p", "A policy says of a path and everything below how much of the cache it may take, what stays longest, how it is written and how often its store is looked at."), told.viewer.admin ? h("p", h("button.main", { type: "button", onclick: add }, "Set one")) : null),
  });
  if (told.viewer.admin) push.append(h("button.main", { type: "button", onclick: add }, icon("plus"), "New policy"));
  view.append(h("p.hint", "The deepest policy that says something about a path wins, setting by setting."), h("div.tools", list.search, list.tally), h("div.live.snug", list.element));
  return watch("policies", (value, topic) => { fill(trouble, old(topic)); if (value && !topic.error) { known = value; list.show(Object.values(known)); } });
}
