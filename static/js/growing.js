// A chart that grows while it is looked at: what a topic told since the page was opened, the last ten minutes of it.
import { nowMs } from "./live.js";
import { plot } from "./plot.js";

const POINTS = 300;
const LEAST_S = 60;

/** `growing(labels, format, { least })` gives { element, put(atMs, values), stop() }. A value null: there was none. `least`: what the scale shows at least. */
export function growing(labels, format, { least = 1 } = {}) {
  const times = [];
  const columns = labels.map(() => []);
  const chart = plot(labels.map((label) => ({ label })), format, { least, range: () => sinceOpened(times) });
  return {
    element: chart.element,
    put(atMs, values) {
      const at = atMs / 1000;
      if (times.length && at <= times[times.length - 1]) return;
      times.push(at);
      columns.forEach((column, index) => column.push(values[index] ?? null));
      if (times.length > POINTS) { times.shift(); columns.forEach((column) => column.shift()); }
      chart.draw(times, columns);
    },
    stop: chart.stop,
  };
}

/** From the first value on, and a minute at least. */
export function sinceOpened(times) {
  const end = times[times.length - 1] ?? nowMs() / 1000;
  return [Math.min(times[0] ?? end, end - LEAST_S), end];
}
