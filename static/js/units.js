// What people type and read for intervals and sizes, as the CLI takes them (monofs/config/units.py): 5m, 1d12h, never, always; 64MiB, 1.5GB.
const SECONDS = { "": 1, ms: 0.001, s: 1, m: 60, min: 60, h: 3600, d: 86400 };
const PART = /\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|d)\s*/y;
const SIZE = /^\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(i?)(b?)\s*$/i;

/** Seconds; null: nothing was typed; undefined: it is no duration. */
export function readDuration(text) {
  const word = text.trim().toLowerCase();
  if (!word) return null;
  if (/^[0-9]+(\.[0-9]+)?$/.test(word)) return Number(word);
  let total = 0;
  PART.lastIndex = 0;
  let end = 0;
  for (let part = PART.exec(word); part; part = PART.exec(word)) { total += Number(part[1]) * SECONDS[part[2]]; end = PART.lastIndex; }
  return end === word.length ? total : undefined;
}

/** Seconds of a sync interval; -1: never, 0: always. */
export function readInterval(text) {
  const word = text.trim().toLowerCase();
  return word === "never" || word === "-1" ? -1 : word === "always" ? 0 : readDuration(text);
}

/** Bytes; null: nothing was typed; undefined: it is no size. */
export function readSize(text) {
  if (!text.trim()) return null;
  const match = SIZE.exec(text);
  if (!match) return undefined;
  const [, number, prefix, binary, unit] = match;
  const base = unit && prefix && !binary ? 1000 : 1024;
  return Math.floor(Number(number) * base ** ["", "k", "m", "g", "t", "p"].indexOf(prefix.toLowerCase()));
}

/** What would be typed for it. */
export function writeDuration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  let left = seconds;
  let text = "";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60]]) { if (left >= size) { text += `${Math.floor(left / size)}${unit}`; left %= size; } }
  return left || !text ? `${text}${Number(left.toFixed(3))}s` : text;
}

export const writeInterval = (seconds) => (seconds === -1 ? "never" : seconds === 0 ? "always" : writeDuration(seconds));

export function writeSize(bytes) {
  if (bytes === null || bytes === undefined) return "";
  for (const [at, unit] of ["PiB", "TiB", "GiB", "MiB", "KiB"].entries()) { const size = 1024 ** (5 - at); if (bytes >= size && bytes % (size / 1024) === 0) return `${Number((bytes / size).toFixed(4))}${unit}`; }
  return String(bytes);
}

export const intervalHint = "such as 5m or 1d12h; never; always";
export const durationHint = "such as 5m or 1d12h";
export const checkDuration = (text) => (readDuration(text) === undefined ? `write a time ${durationHint}` : "");
export const checkInterval = (text) => (readInterval(text) === undefined ? `write a time ${intervalHint}` : "");
export const checkSize = (text) => (readSize(text) === undefined ? "write a size such as 100GiB or 1.5TB" : "");
