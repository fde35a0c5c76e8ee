// Every metric family of this node, as /metrics has it: searchable, each with its values and a chart that grows while it is looked at.
import { chip, empty, fill, h } from "../dom.js";
import { bytes, count, exact, seconds } from "../format.js";
import { growing } from "../growing.js";
import { watch } from "../live.js";
import { table } from "../table.js";

const LINES = 6;

export function show(view, here) {
  return here.rest ? showOne(view, here.rest) : showAll(view);
}

const total = (family) => Object.values(family.values).reduce((sum, each) => sum + each, 0);
const unitOf = (name) => (/_bytes(_total)?$/.test(name) ? bytes : /_seconds$/.test(name) ? seconds : count);
const format = (name, family) => (family.kind === "histogram" ? count : unitOf(name));

function noter(view) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  view.append(trouble);
  return (topic) => {
    if (topic.error) fill(trouble, h("p.note.bad", `This node's metrics cannot be had: ${topic.error.message}. What is shown is old.`));
    else if (trouble.childNodes.length) fill(trouble);
  };
}

function showAll(view) {
  view.append(h("div.head", h("h1", "Metrics"), h("span.soft", "of this node"), h("div.push", h("a.button", { href: "/metrics", target: "_blank", rel: "noreferrer" }, "For Prometheus"))));
  const note = noter(view);
  const families = table([
    { name: "name", title: "Metric", cell: (row) => h("a.mono", { href: `/measures/${row.name}` }, row.name), value: (row) => row.name },
    { name: "kind", title: "Kind", cell: (row) => chip(row.kind), value: (row) => row.kind },
    { name: "value", title: "Value", right: true, cell: (row) => h("span", { title: exact(total(row)) }, format(row.name, row)(total(row))), value: (row) => total(row) },
    { name: "series", title: "Series", right: true, cell: (row) => exact(Object.keys(row.values).length), value: (row) => Object.keys(row.values).length },
    { name: "doc", title: "What it is", wide: true, cell: (row) => h("span", { title: row.doc }, row.doc) },
  ], { key: (row) => row.name, sort: ["name", false], label: "Metrics", match: (row) => `${row.name} ${row.kind} ${row.doc} ${Object.keys(row.values).join(" ")}`, empty: empty("No metrics yet") });
  view.append(h("div.tools", families.search, families.tally), h("div.live", families.element));
  return watch("measures", (value, topic) => {
    note(topic);
    if (value) families.show(Object.entries(value).map(([name, family]) => rowOf(name, family)));
  });
}

const rows = new WeakMap(); // a family that did not change keeps its row, so that the table keeps its cells
function rowOf(name, family) {
  if (!rows.has(family)) rows.set(family, { name, ...family });
  return rows.get(family);
}

function showOne(view, name) {
  const kind = h("span");
  view.append(h("div.head", h("h1.long", h("a", { href: "/measures" }, "Metrics"), h("span.mono", name)), kind));
  const note = noter(view);
  const doc = h("p.lead");
  const title = h("h2", "Since this page was opened");
  const box = h("div");
  const under = h("div");
  let series = null;
  view.append(doc, h("section.card.live", title, box), under);

  function begin(family) {
    const timed = (at) => ({ right: true, cell: (row) => seconds(row.quantiles?.[at]), value: (row) => row.quantiles?.[at] });
    series = table([
      { name: "labels", title: "Series", wide: true, cell: (row) => h("span.mono", row.labels || "all"), value: (row) => row.labels },
      { name: "value", title: family.kind === "histogram" ? "How many" : "Value", right: true, cell: (row) => h("span", { title: exact(row.value) }, format(name, family)(row.value)), value: (row) => row.value },
      ...(family.kind === "histogram" ? [{ name: "p50", title: "Half within", ...timed(0) }, { name: "p99", title: "99 % within", ...timed(1) }, { name: "mean", title: "Mean", ...timed(2) }] : []),
    ], { key: (row) => row.labels, sort: ["value", true], label: "Series", match: (row) => row.labels, empty: empty("Nothing was counted yet", h("p", "A series begins with the first thing that happens.")) });
    fill(doc, family.doc);
    fill(kind, chip(family.kind));
    fill(under, h("div.tools.gap", series.search, series.tally), h("div.live", series.element));
  }

  let chart = null;
  let drawn = [];
  let before = null;

  function draw(family, topic) {
    const sorted = Object.entries(family.values).sort(([, a], [, b]) => b - a).map(([labels]) => labels);
    const wanted = sorted.slice(0, LINES);
    if (!chart || (drawn.length < LINES && wanted.some((each) => !drawn.includes(each)))) {
      chart?.stop();
      drawn = wanted;
      const unit = unitOf(name);
      chart = growing(drawn.map((each) => each || "all"), family.kind === "gauge" ? unit : family.kind === "histogram" ? seconds : (each) => (each === null || each === undefined ? "–" : `${unit(each)}/s`), { least: family.kind === "histogram" || unit === seconds ? 0.001 : unit === bytes ? 1024 : 1 });
      fill(box, chart.element);
      title.textContent = { counter: "Per second, since this page was opened", gauge: "Since this page was opened", histogram: "Mean, since this page was opened" }[family.kind] + (sorted.length > LINES ? `: the ${LINES} largest of ${sorted.length}` : "");
    }
    const now = { at: topic.at, values: family.values, quantiles: family.quantiles };
    if (family.kind === "gauge") chart.put(topic.at, drawn.map((each) => family.values[each]));
    else if (before && now.at > before.at) chart.put(topic.at, drawn.map((each) => grown(family, before, now, each)));
    before = now;
  }

  return close(watch("measures", (value, topic) => {
    note(topic);
    if (!value) return;
    const family = Object.hasOwn(value, name) ? value[name] : null;
    if (!family) { fill(doc, "This node has no such metric: it may have another name in another release."); return; }
    if (!series) begin(family);
    series.show(Object.entries(family.values).map(([labels, each]) => ({ labels, value: each, quantiles: family.quantiles[labels] })));
    if (!topic.error) draw(family, topic);
  }), () => chart?.stop());
}

function grown(family, before, now, labels) {
  const more = (now.values[labels] ?? 0) - (before.values[labels] ?? 0);
  if (family.kind === "counter") return more >= 0 ? more / ((now.at - before.at) / 1000) : null;
  const sum = (each) => (each.values[labels] ?? 0) * (each.quantiles[labels]?.[2] ?? 0);
  return more > 0 ? (sum(now) - sum(before)) / more : null;
}

const close = (...acts) => () => acts.forEach((each) => each());
