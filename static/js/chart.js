// Charts of the node's history, and live from then on: one request for the past, then the topic `now`.
import { get } from "./api.js";
import { h } from "./dom.js";
import { sinceOpened } from "./growing.js";
import { nowMs, watch } from "./live.js";
import { plot } from "./plot.js";

export const SPANS = [[300, "5 min"], [3600, "1 h"], [86400, "1 d"], [604800, "1 w"]];
const POINTS = 150; // what lies closer together is drawn as its mean

/**
 * Several charts over one span: `charts.add(title, [{ series, label }], format)` gives an element; `charts.stop()` at the end.
 * `follow(take)`: instead of the node's history, what begins to call `take({ at_s, values })` and gives a function that ends it; there is no past then.
 */
export function charts(span = 300, follow = null) {
  const made = [];
  let past = { times: [], series: {} };
  let wanted = span;
  let loads = 0;
  const buttons = SPANS.map(([value, text]) => h("button", { type: "button", "aria-pressed": value === span, onclick: () => choose(value) }, text));
  const chooser = h("div.spans", { role: "group", "aria-label": "Time shown" }, buttons);

  async function choose(value) {
    wanted = value;
    const mine = (loads += 1);
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", SPANS[at][0] === value));
    if (follow) return;
    const told = await get("/history", { span_s: value }).catch(() => null);
    if (told && mine === loads) {
      past = { times: told.times_s, series: told.series };
      made.forEach((each) => each.draw());
    }
  }

  const begin = follow ?? ((take) => watch("now", take));
  const leave = begin((value) => {
    if (!value || wanted > 3600) return;
    const last = past.times[past.times.length - 1] ?? 0;
    if (value.at_s <= last) return;
    past.times.push(value.at_s);
    for (const [name, number] of Object.entries(value.values)) (past.series[name] ??= new Array(past.times.length - 1).fill(null)).push(number);
    while (past.times[0] < value.at_s - wanted) { past.times.shift(); for (const list of Object.values(past.series)) list.shift(); }
    made.forEach((each) => each.draw());
  });
  const minutes = setInterval(() => { if (wanted > 3600) choose(wanted); }, 60000);

  function range() {
    if (follow) return sinceOpened(past.times);
    const end = past.times[past.times.length - 1] ?? nowMs() / 1000;
    return [end - wanted, end];
  }

  function add(title, lines, format, { most = null, stacked = false } = {}) {
    const chart = plot(lines, format, { range, most, stacked });
    made.push({
      draw() { chart.draw(...(follow ? [past.times, columns(past, lines)] : means(past.times, columns(past, lines), Math.ceil(wanted / POINTS)))); },
      stop: chart.stop,
    });
    return h("section.card.live", h("h2", title), chart.element);
  }

  choose(span);
  return { add, chooser, stop() { leave(); clearInterval(minutes); made.forEach((each) => each.stop()); } };
}

const columns = (past, lines) => lines.map(({ series }) => past.series[series] ?? past.times.map(() => null));

/** Means of each `step` seconds: [times, columns]. What was null all the time stays null. */
function means(times, values, step) {
  if (step < 2) return [times, values];
  const outTimes = [];
  const out = values.map(() => []);
  for (let from = 0; from < times.length; ) {
    const bin = Math.floor(times[from] / step);
    let to = from + 1;
    while (to < times.length && Math.floor(times[to] / step) === bin) to += 1;
    if (to === times.length && outTimes.length && times[to - 1] - bin * step < step / 2) break; // it has hardly begun
    outTimes.push(times[to - 1]);
    values.forEach((column, at) => {
      let sum = 0;
      let count = 0;
      for (let index = from; index < to; index += 1) if (column[index] !== null && column[index] !== undefined) { sum += column[index]; count += 1; }
      out[at].push(count ? sum / count : null);
    });
    from = to;
  }
  return [outTimes, out];
}
