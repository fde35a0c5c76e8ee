// Rates of numbers that grow, from successive values of a topic: what a counter gained, by the seconds between the two by the server's clock.

/** `next(atMs, numbers)` gives rates by name, null the first time. A counter that began anew counts from 0. */
export function rates() {
  let before = null;
  let shown = null;
  return (atMs, numbers) => {
    if (before && atMs <= before.atMs) return shown;
    const last = before;
    before = { atMs, numbers };
    if (!last) return null;
    const seconds = (atMs - last.atMs) / 1000;
    shown = {};
    for (const [name, value] of Object.entries(numbers)) {
      const old = last.numbers[name];
      if (typeof value === "number" && old !== undefined) shown[name] = (value >= old ? value - old : value) / seconds;
    }
    return shown;
  };
}

export const ratio = (part, rest) => (part + rest > 0 ? part / (part + rest) : null);
