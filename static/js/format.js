// Numbers as people read them; the exact value stands in the title. Times are shown in the viewer's zone.
import { h } from "./dom.js";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const plain = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium" }); // 2026-11-30 06:11:02: read the same way everywhere
const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export const exact = (value) => (value === null || value === undefined ? "" : plain.format(value));

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  let at = 0;
  let size = Math.abs(value);
  while (size >= 1000 && at < UNITS.length - 1) { size /= 1024; at += 1; }
  const digits = at === 0 || size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return `${value < 0 ? "-" : ""}${size.toFixed(digits)} ${UNITS[at]}`;
}

export function count(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1e5) return `${(value / 1e3).toFixed(0)} k`;
  if (Number.isInteger(value)) return plain.format(value);
  return size >= 100 ? value.toFixed(0) : size >= 1 ? value.toFixed(1) : value === 0 ? "0" : value.toPrecision(2);
}

export const rate = (value) => (value === null || value === undefined ? "–" : `${count(value)}/s`);
export const bytesRate = (value) => (value === null || value === undefined ? "–" : `${bytes(value)}/s`);
export const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(value > 0.995 && value < 1 ? 2 : 1)} %`);

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${Number((value * 1e3).toPrecision(3))} ms`;
  if (value < 60) return `${Number(value.toFixed(1))} s`;
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.round(value);
  const shown = [];
  for (const [name, size] of parts) {
    if (left >= size) { shown.push(`${Math.floor(left / size)} ${name}`); left %= size; }
  }
  return shown.slice(0, 2).join(" ");
}

/** How long before now, by a clock that is the server's: `now_ms` from live.js. */
export function before(ms, nowMs) {
  const s = Math.round((ms - nowMs) / 1000);
  if (Math.abs(s) < 60) return ago.format(s, "second");
  if (Math.abs(s) < 3600) return ago.format(Math.round(s / 60), "minute");
  if (Math.abs(s) < 86400 * 2) return ago.format(Math.round(s / 3600), "hour");
  return ago.format(Math.round(s / 86400), "day");
}

/** The same of what has been: never in the future, whatever stamped it. */
export const since = (ms, nowMs) => before(Math.min(ms, nowMs), nowMs);

export const date = (ms) => clock.format(new Date(ms));

export function time(ns, nowMs = Date.now()) {
  if (!ns) return "–";
  const ms = Number(ns) / 1e6;
  return h("time", { dateTime: new Date(ms).toISOString(), title: before(ms, nowMs) }, date(ms));
}

/** A size with its exact bytes on hover. */
export const size = (value) => h("span", { title: value === null || value === undefined ? "" : `${exact(value)} bytes` }, bytes(value));
export const number = (value) => h("span", { title: exact(value) }, count(value));
export const mode = (bits, isDirectory) => (isDirectory ? "d" : "-") + [..."rwxrwxrwx"].map((c, i) => (bits & (1 << (8 - i)) ? c : "-")).join("");
