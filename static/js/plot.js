// One chart: lines or stacked areas over time, in the page's colours, with the last values in its legend until somebody points at others.
import uPlot from "../vendor/uPlot.esm.js";
import { h } from "./dom.js";
import { bytes, bytesRate } from "./format.js";

const COLORS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];
const HEIGHT = 180;
const BINARY = Array.from({ length: 60 }, (_, at) => 2 ** at);
const DAY_S = 86400;
const EDGE = 0.05;
const SHORT_S = 180;
const SHORT = [1, 5, 10, 15, 30, 60];
const LONG = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
const LETTER = 7; // pixels of the axis' font
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const exactClock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const once = (texts) => texts.map((text, at) => (at && text === texts[at - 1] ? "" : text));

/**
 * lines: [{ label, fill }]; `range()`: the seconds shown, [from, to]; `most`, `least`: what the scale ends at, or shows at least; `stacked`: each line lies on the one before.
 * Gives { element, draw(times, columns), stop() }: seconds since 1970 and, line by line, numbers or null.
 */
export function plot(lines, format, { range, most = null, least = 0, stacked = false }) {
  const element = h("div.chart");
  let times = [];
  let raw = lines.map(() => []);
  let count = 0;
  let made = null;

  const isShort = () => { const [from, to] = range(); return to - from <= SHORT_S; };
  const at = (of, index) => of[index ?? of.length - 1];
  function summed() {
    if (!stacked) return raw;
    let below = null;
    return raw.map((column) => (below = column.map((value, index) => (below ? (value ?? 0) + (below[index] ?? 0) : value))));
  }
  function ticks(_, seconds) {
    const [from, to] = range();
    const said = to - from > 3 * DAY_S ? day : isShort() ? exactClock : clock;
    return seconds.map((second) => (to - second < EDGE * (to - from) ? "" : said.format(new Date(second * 1000)))); // none is cut off at the end
  }
  function options() {
    const ink = color("--ink-soft");
    const line = color("--line");
    const axis = { stroke: ink, font: "12px system-ui", ticks: { show: false } };
    const shades = lines.map((_, index) => color(COLORS[index % COLORS.length]));
    return {
      width: Math.max(200, element.clientWidth), height: HEIGHT, padding: [8, 4, 0, 0],
      cursor: { y: false, points: { size: 5 } }, legend: { live: true, markers: { width: 0, fill: (_, index) => shades[index - 1] } },
      scales: { x: { range }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), most ?? (Math.max(high ?? 0, least) * 1.08 || 1)] } },
      axes: [
        { ...axis, grid: { show: false }, incrs: () => (isShort() ? SHORT : LONG), size: 28, gap: 6, space: () => (isShort() ? 70 : 48), values: ticks },
        { ...axis, grid: { stroke: line, width: 1 }, gap: 6, space: 34, incrs: format === bytes || format === bytesRate ? BINARY : undefined, values: (_, marks) => once(marks.map((mark) => format(mark))),
          size: (self, values, index, cycle) => (cycle > 1 ? self.axes[index]._size : 10 + LETTER * Math.max(4, ...(values ?? []).map((value) => value.length))) },
      ],
      bands: stacked ? lines.slice(1).map((_, index) => ({ series: [index + 2, index + 1], fill: `${shades[index + 1]}55` })) : [],
      series: [
        { label: "Time", value: (_, second, __, index) => (times.length ? exactClock.format(new Date(at(times, index) * 1000)) : "–") },
        ...lines.map(({ label, fill }, index) => ({ label, stroke: shades[index], width: 1.6, fill: (stacked && !index) || fill ? shades[index] + (stacked ? "55" : "22") : undefined, points: { show: times.length < 3 }, value: (_, __, ___, where) => format(at(raw[index], where)) })),
      ],
    };
  }
  function show() {
    if (!element.clientWidth || !element.isConnected) return;
    const data = [times, ...summed()];
    if (made) made.setData(data);
    else made = new uPlot(options(), data, element);
  }
  function again() { made?.destroy(); made = null; show(); }

  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", again);
  const sizes = new ResizeObserver(() => { if (!made) show(); else if (Math.abs(made.width - element.clientWidth) > 1) made.setSize({ width: Math.max(200, element.clientWidth), height: HEIGHT }); });
  sizes.observe(element);
  return {
    element,
    draw(newTimes, columns) {
      const isMore = count < 3 && newTimes.length >= 3; // points are for what is no line yet
      [times, raw, count] = [newTimes, columns, newTimes.length];
      if (isMore) again();
      else show();
    },
    stop() { scheme.removeEventListener("change", again); sizes.disconnect(); made?.destroy(); },
  };
}
