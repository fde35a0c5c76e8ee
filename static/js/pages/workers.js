// The workers: what each holds, does and owns; /workers/3 is one of them, asked itself.
import { post } from "../api.js";
import { charts } from "../chart.js";
import { confirm, toast } from "../dialog.js";
import { chip, empty, facts, fill, h, meter, say, told } from "../dom.js";
import { bytes, bytesRate, count, exact, percent, rate, seconds, size } from "../format.js";
import { watch } from "../live.js";
import { go } from "../main.js";
import { rates, ratio } from "../rates.js";
import { table } from "../table.js";

const SLOTS = 65536;
const TIER_COLORS = ["", "c2", "c3"];

function state(row) {
  if (!row.live) return chip("silent", "bad", "the master has not heard it for 10 s and more: others serve what it owned");
  if (row.leaving) return chip(row.slots ? "leaving" : "taken out", "warn", "it was taken out of the slot table");
  return chip("live", "good");
}

const heard = (row) => (row.heard_s === null ? "not by this leader" : row.heard_s < 1 ? "just now" : `${seconds(Math.floor(row.heard_s))} ago`);
const served = (now) => (now ? (now.cache_bytes ?? 0) + (now.descriptor_bytes ?? 0) + (now.through_bytes ?? 0) : null);
const usage = (used, room, label = "used") => h("span.usage", meter(room ? `${percent(used / room)} ${label}` : "unknown", [room ? used / room : 0, room && used / room > 0.98 ? "c2" : "", ""]), h("span", { title: `${exact(used)} of ${exact(room)} bytes` }, room === null || room === undefined ? "–" : `${bytes(used)} of ${bytes(room)}`));

export function show(view, here) {
  return here.rest ? one(view, here.rest) : all(view);
}

function all(view) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const sums = {};
  const tile = (name, label) => { sums[name] = { value: h("span.value", "–"), more: h("span.more") }; return h("div.card.tile.live", h("span.label", label), sums[name].value, sums[name].more); };
  const list = table([
    { name: "id", title: "Worker", value: (row) => row.id, cell: (row) => h("a", { href: `/workers/${row.id}` }, `Worker ${row.id}`) },
    { name: "state", title: "State", value: (row) => (row.live ? row.leaving : -1), cell: state },
    { name: "used", title: "Cached", value: (row) => (row.capacity_bytes ? row.used_bytes / row.capacity_bytes : null), cell: (row) => usage(row.used_bytes, row.capacity_bytes) },
    { name: "slots", title: "Share of slots", right: true, value: (row) => row.slots, cell: (row) => h("span", { title: `${exact(row.slots)} of ${exact(SLOTS)} slots` }, percent(row.slots / SLOTS)) },
    { name: "served", title: "Served", right: true, value: (row) => served(row.rates), cell: (row) => bytesRate(served(row.rates)) },
    { name: "hit", title: "Hit ratio, now", right: true, value: (row) => row.hit, cell: (row) => percent(row.hit) },
    { name: "store", title: "From stores", right: true, value: (row) => row.rates?.store_read_bytes, cell: (row) => bytesRate(row.rates?.store_read_bytes) },
    { name: "heard", title: "Heard", right: true, value: (row) => row.heard_s, cell: (row) => heard(row) },
    { name: "zone", title: "Zone", value: (row) => row.zone, cell: (row) => row.zone || "–" },
    { name: "address", title: "Address", value: (row) => row.address, wide: true, cell: (row) => h("span.mono", row.address || "not known yet") },
  ], {
    label: "Workers", key: (row) => row.id, sort: ["id", false], match: (row) => `worker ${row.id} ${row.address} ${row.zone} ${row.live ? "live" : "silent"} ${row.leaving ? "leaving" : ""}`, open: (row) => go(`/workers/${row.id}`),
    empty: empty("No worker has come yet", h("p", "Without one nothing is cached, and files cannot be read. Start one on a machine with disks:"), h("p", h("code", "monofs serve --role worker --set worker.masters=HOST:19998"))),
  });
  view.append(h("div.head", h("h1", "Workers")), trouble, h("div.grid.tiles.eight", tile("live", "Live"), tile("room", "Cached"), tile("served", "Served, now"), tile("hit", "Hit ratio, now")), h("div.tools", list.search, list.tally), h("div.live.snug", list.element));

  const measures = new Map();
  const put = (name, text, more = "", title = "") => { say(sums[name].value, text, title); say(sums[name].more, more); };
  const leave = watch("workers", (value, topic) => {
    fill(trouble, topic.error ? h("p.note.bad", `What is shown is old: ${topic.error.message}. `, topic.error.hint) : null);
    if (!value || topic.error) return;
    const rows = Object.entries(value).map(([id, worker]) => {
      if (!measures.has(id)) measures.set(id, rates());
      const now = worker.live ? measures.get(id)(topic.at, worker.totals) : null;
      return { ...worker, id: Number(id), rates: now, hit: now ? ratio(now.page_hits ?? 0, now.page_misses ?? 0) : null };
    });
    list.show(rows);
    const live = rows.filter((row) => row.live);
    const sum = (of) => live.reduce((total, row) => total + (of(row) ?? 0), 0);
    const [used, room] = [sum((row) => row.used_bytes), sum((row) => row.capacity_bytes)];
    put("live", `${live.length} of ${rows.length}`, rows.length > live.length ? `${rows.length - live.length} silent` : `${rows.filter((row) => row.leaving).length} leaving`);
    put("room", room ? percent(used / room) : "–", `${bytes(used)} of ${bytes(room)}`, `${exact(used)} bytes`);
    put("served", bytesRate(sum((row) => served(row.rates))), `${bytesRate(sum((row) => row.rates?.store_read_bytes))} from stores`);
    const hit = ratio(sum((row) => row.rates?.page_hits), sum((row) => row.rates?.page_misses));
    put("hit", percent(hit), hit === null ? "nothing was asked for" : "of the pages asked for");
  });
  return leave;
}

function one(view, id) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const chipped = h("span", { role: "status" });
  const about = h("section.card.live");
  const leaving = h("div.tier");
  const tiers = h("section.card.live");
  const actions = h("div.push");
  const measure = rates();
  let worker = null;
  let most = 0;
  let button = "";
  const plots = charts(300, (take) => watch(`worker:${id}`, (value, topic) => {
    if (!value || topic.error) return;
    const now = value.live ? measure(topic.at, value.totals) : null;
    if (now) take({ at_s: Math.floor(topic.at / 1000), values: { ...now, hit: ratio(now.page_hits ?? 0, now.page_misses ?? 0), used: value.used_bytes, room: value.capacity_bytes } });
  }));
  const list = table([
    { name: "name", title: "Counter", value: (row) => row.name, wide: true, cell: (row) => h("span.mono", row.name) },
    { name: "value", title: "Value", right: true, value: (row) => row.value, cell: (row) => h("span", { title: exact(row.value) }, /bytes/.test(row.name) ? bytes(row.value) : /seconds/.test(row.name) ? seconds(row.value) : count(row.value)) },
  ], { label: "Counters", key: (row) => row.name, sort: ["name", false], match: (row) => row.name, empty: h("p.hint", "Its counters are told by the worker itself, when it answers.") });

  view.append(
    h("div.head", h("h1", h("a", { href: "/workers" }, "Workers"), id), chipped, actions), trouble, leaving, h("div.grid", about, tiers),
    h("div.grid.four",
      plots.add("Served", [{ series: "cache_bytes", label: "from the cache" }, { series: "descriptor_bytes", label: "opened on its machine" }, { series: "through_bytes", label: "past the cache" }], bytesRate, { stacked: true }),
      plots.add("Hit ratio", [{ series: "hit", label: "pages that were cached", fill: true }], percent, { most: 1 }),
      plots.add("Brought and evicted", [{ series: "store_read_bytes", label: "from stores", fill: true }, { series: "peer_bytes", label: "from other workers" }, { series: "evicted_bytes", label: "evicted" }], bytesRate),
      plots.add("Cached", [{ series: "used", label: "used", fill: true }, { series: "room", label: "room" }], bytes)),
    h("details.card", h("summary", "All its counters"), h("div.inner", h("div.tools", list.search, list.tally), list.element)));

  async function decommission(stay) {
    const title = stay ? `Let worker ${id} stay` : `Take worker ${id} out`;
    const text = stay ? "It gets its share of the slots again, and others hand over to it what it owns then." : "It owns nothing any more, and hands what it has cached to the others, so that it can be stopped without a hole in the cache. This can be taken back while it runs.";
    const done = await confirm(title, text, () => post(`/workers/${id}/decommission`, undefined, { stay }), { button: stay ? "Let it stay" : "Take it out", danger: !stay });
    if (done) toast(stay ? `Worker ${id} stays` : `Worker ${id} hands over what it has`);
  }

  function drawLeaving(now) {
    if (!now.leaving) { most = 0; fill(leaving); return; }
    const left = now.counters.monofs_foreign_groups;
    if (left === undefined) { fill(leaving, h("p.note.warn", "It was taken out of the slot table; how far it is with handing over is not known while it does not answer.")); return; }
    most = Math.max(most, left);
    const kept = now.counters.monofs_kept_bytes ?? 0;
    if (now.slots || now.counters.monofs_handing) fill(leaving, h("div.note", { role: "status" }, h("p", `It hands over what it has cached: ${exact(left)} groups of up to 64 MiB are left.`), meter(`${exact(most - left)} of ${exact(most)} groups handed over`, [most ? 1 - left / most : 0, "", ""])));
    else if (kept) fill(leaving, h("p.note.warn", { role: "status" }, `${bytes(kept)} that no store has are on this worker only (files of type MUST_CACHE): copy them below a mount, or remove them, before you stop it.`));
    else fill(leaving, h("p.note.good", { role: "status" }, left ? `${exact(left)} groups found no room at the others and will be fetched from their stores again. It can be stopped.` : "It has nothing that is missed when it stops: stop it."));
  }

  const leave = watch(`worker:${id}`, (value, topic) => {
    if (topic.error) {
      fill(trouble, topic.error.error === "NotFound" ? h("p.note.bad", `There is no worker ${id} (any more). `, h("a", { href: "/workers" }, "See all workers")) : h("p.note.bad", `What is shown is old: ${topic.error.message}. `, topic.error.hint));
      if (topic.error.error === "NotFound") { fill(actions); fill(chipped, chip("not there", "bad")); }
      return;
    }
    if (!value) return;
    fill(trouble, value.error ? h("p.note.bad", value.live ? `It does not answer: ${value.error}` : `It is silent${value.heard_s === null ? "" : `, last heard ${seconds(Math.round(value.heard_s))} ago`}: others serve what it owned. What it has is not known.`) : null);
    worker = value;
    const said = `${value.live} ${value.leaving} ${Boolean(value.slots)}`;
    if (said !== button) {
      button = said;
      fill(chipped, state(value));
      fill(actions, value.console ? h("a.button", { href: value.console, target: "_blank", rel: "noopener", title: /\/\/(127\.|localhost|\[::1\])/.test(value.console) ? "it listens on its own machine only" : "" }, "Its own console") : null,
        told.viewer.admin ? (value.leaving ? h("button.main", { type: "button", onclick: () => decommission(true) }, "Let it stay") : h("button.danger", { type: "button", onclick: () => decommission(false) }, "Take it out")) : null);
    }
    drawLeaving(value);
    fill(about, h("h2", "Worker"), facts([
      ["Address", h("span.mono", value.address || "not known yet")], ["Zone", value.zone || "none"], ["Weight", exact(value.weight)],
      ["Slots", h("span", { title: `${exact(value.slots)} of ${exact(SLOTS)}` }, percent(value.slots / SLOTS))], ["Heard", heard(value)],
      ["Up", seconds(value.counters.monofs_uptime_seconds)], ["Fetches under way", exact(value.counters.monofs_flights) || "–"], ["Descriptors out", exact(value.counters.monofs_descriptors_out) || "–"],
      ["In no store", size(value.counters.monofs_kept_bytes)],
    ]));
    fill(tiers, h("h2", "Tiers"), value.tiers.length ? value.tiers.map((tier, at) => h("div.tier",
      h("div.line", h("strong", tier.tier), tier.state === "ok" ? null : chip(tier.state, tier.state === "full" ? "warn" : "bad", tier.error), h("span.mono.soft", { title: tier.directory }, tier.directory)),
      meter(`${tier.tier}: ${percent(tier.capacity_bytes ? tier.used_bytes / tier.capacity_bytes : 0)} used`, [tier.capacity_bytes ? (tier.used_bytes - tier.pinned_bytes) / tier.capacity_bytes : 0, TIER_COLORS[at % 3], "used"], [tier.capacity_bytes ? tier.pinned_bytes / tier.capacity_bytes : 0, "c3", "pinned"]),
      h("div.soft", { title: `${exact(tier.used_bytes)} of ${exact(tier.capacity_bytes)} bytes` }, `${bytes(tier.used_bytes)} of ${bytes(tier.capacity_bytes)}, ${exact(tier.groups)} groups, ${bytes(tier.pinned_bytes)} pinned`), tier.error ? h("p.note.bad", tier.error) : null)) : h("p.hint", value.live ? "It has not told its tiers yet." : "Not known while it is silent."));
    list.show(Object.entries(value.counters).map(([name, number]) => ({ name, value: number })));
  });
  return () => { leave(); plots.stop(); };
}
