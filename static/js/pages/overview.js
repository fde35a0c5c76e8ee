// The state of the cluster in one glance, and the last minutes as charts.
import { charts } from "../chart.js";
import { chip, fill, h, say, told } from "../dom.js";
import { bytes, bytesRate, count, exact, percent, rate, seconds } from "../format.js";
import { watch } from "../live.js";

export function show(view) {
  const health = h("span", { role: "status" });
  const plots = charts();
  const tiles = {};
  const tile = (name, label, href) => {
    const value = h("span.value", "–");
    const more = h("span.more");
    tiles[name] = { value, more };
    return h(`${href ? "a" : "div"}.card.tile.live`, href ? { href } : {}, h("span.label", label), value, more);
  };
  const led = h("a.soft", { href: "/journal" });
  const put = (name, text, title, more) => {
    say(tiles[name].value, text, title ?? "");
    if (more !== undefined) say(tiles[name].more, more);
  };
  const advice = h("div");
  const trouble = h("div", { role: "status", "aria-live": "polite" });

  view.append(
    h("div.head", h("h1", "Overview"), health, led, h("div.push", plots.chooser)),
    trouble, advice,
    h("div.grid.tiles.eight", tile("workers", "Workers", "/workers"), tile("capacity", "Cache", "/cache"), tile("hit", "Hit ratio, now"), tile("served", "Served, now"), tile("operations", "Metadata, now"), tile("saved", "Store requests saved"), tile("queued", "Changes under way", "/jobs"), tile("files", "Files and directories", "/browse")),
    h("div.grid.six",
      plots.add("Throughput by source", [{ series: "cache_bytes_s", label: "from the cache" }, { series: "descriptor_bytes_s", label: "opened on this machine" }, { series: "through_bytes_s", label: "past the cache" }], bytesRate, { stacked: true }),
      plots.add("Hit ratio", [{ series: "hit_ratio", label: "pages that were cached", fill: true }], percent, { most: 1 }),
      plots.add("Brought, written and evicted", [{ series: "store_read_bytes_s", label: "from stores" }, { series: "peer_bytes_s", label: "from other workers" }, { series: "evicted_bytes_s", label: "evicted" }, { series: "store_written_bytes_s", label: "written to stores" }], bytesRate),
      plots.add("Metadata operations", [{ series: "operations_s", label: "requests", fill: true }], rate),
      plots.add("Latency of metadata", [{ series: "latency_p50_s", label: "half within" }, { series: "latency_p99_s", label: "99 % within" }], seconds),
      plots.add("Requests to stores", [{ series: "store_requests_s", label: "all", fill: true }, { series: "store_gets_s", label: "for bytes" }], rate)));

  const left = [
    watch("now", (value) => {
      if (!value) return;
      const v = value.values;
      const served = (v.cache_bytes_s ?? 0) + (v.through_bytes_s ?? 0) + (v.descriptor_bytes_s ?? 0);
      put("hit", percent(v.hit_ratio), "", v.hit_ratio === null ? "nothing was asked for" : "of the pages asked for");
      put("served", bytesRate(served), `${exact(Math.round(served))} bytes/s`, `${bytesRate(v.store_read_bytes_s)} from stores`);
      put("operations", rate(v.operations_s), "", v.latency_p99_s === null ? "" : `99 % within ${seconds(v.latency_p99_s)}`);
    }),
    watch("overview", (value, topic) => {
      if (topic.error) fill(trouble, h("p.note.bad", `The cluster does not answer: ${topic.error.message}. What is shown is old.`));
      else if (trouble.childNodes.length) fill(trouble);
      if (value) draw(value, topic);
    }),
  ];

  function draw(value, topic) {
    const { live, silent, leaving, used_bytes: used, capacity_bytes: room, totals } = value.workers;
    const mounts = Object.entries(value.mounts);
    const failing = mounts.filter(([, each]) => each.state !== "ok");
    const problems = [];
    if (topic.error) problems.push("no answer");
    if (!value.cluster.leads) problems.push("no leader");
    if (!live) problems.push("no worker");
    else if (silent) problems.push(`${silent} of ${live + silent} workers silent`);
    if (failing.length) problems.push(`${failing.length} ${failing.length === 1 ? "store" : "stores"} in trouble`);
    if (Boolean(mounts.length) === Boolean(advice.childNodes.length)) fill(advice, mounts.length ? null : h("p.note", "Nothing is mounted yet. ", h("a", { href: "/mounts" }, told.viewer.admin ? "Mount a store" : "Mounts"), " to see its files in ", h("a", { href: "/browse/" }, "the tree"), " and read them through the cache."));
    fill(health, problems.length ? chip(problems.join(", "), !value.cluster.leads || !live || topic.error ? "bad" : "warn") : chip("all is well", "good"));
    say(led, value.cluster.leads ? `leader up ${seconds(value.cluster.uptime_s)}` : "no master leads", `term ${value.cluster.term}`);
    put("workers", `${live} live`, "", silent || leaving ? `${silent} silent, ${leaving} leaving` : `slot table ${value.cluster.epoch}`);
    put("capacity", room ? percent(used / room) : "–", "", `${bytes(used)} of ${bytes(room)}`);
    put("queued", count(value.namespace.intents), exact(value.namespace.intents), `${count(value.namespace.jobs)} ${value.namespace.jobs === 1 ? "job" : "jobs"} remembered`);
    put("files", count(value.namespace.inodes), exact(value.namespace.inodes), `${mounts.length} ${mounts.length === 1 ? "mount" : "mounts"}`);
    const per = totals.page_misses ? totals.store_gets / totals.page_misses : 1;
    const saved = Math.round((totals.page_hits ?? 0) * Math.min(1, per || 1));
    put("saved", count(saved), `${exact(saved)} requests: ${exact(totals.page_hits ?? 0)} pages were cached, at ${(per || 1).toFixed(2)} requests a page`, money(saved, totals));
  }

  return () => { left.forEach((each) => each()); plots.stop(); };
}

function money(saved, totals) {
  const prices = told.node.prices;
  if (!prices || (!prices.per_million_gets && !prices.per_gib)) return "since the workers began";
  const sum = (saved / 1e6) * prices.per_million_gets + ((totals.cache_bytes ?? 0) / 2 ** 30) * prices.per_gib;
  return sum < 0.01 ? "since the workers began" : `about ${sum.toFixed(2)} saved, by the prices set`;
}
