// Which pages of a file are where: a line of cells for each worker, coloured by tier, as full as the cell is.
import { fill, h } from "../dom.js";
import { count, exact, percent, seconds, time } from "../format.js";
import { nowMs } from "../live.js";

const WORKERS_MAX = 40;

export function cacheMap() {
  const lines = h("div.lines");
  const legend = h("p.hint.legend");
  const left = h("div");
  const element = h("section.card.live", h("h2", "In the cache"), legend, lines, left);
  let drawn = null;

  function show(map) {
    if (map === drawn) return;
    drawn = map;
    const all = Object.entries(map.workers);
    const tiers = [...new Set(all.flatMap(([, each]) => Object.values(each.cells).map((cell) => cell.tier)))].sort();
    const held = all.filter(([, each]) => each.pages || each.error).slice(0, WORKERS_MAX);
    const per = map.pages_per_cell === 1 ? "a page of 1 MiB" : `${exact(map.pages_per_cell)} pages of 1 MiB`;
    fill(legend, map.pages ? `${exact(map.pages)} ${map.pages === 1 ? "page" : "pages"}; a cell is ${per}. ` : "An empty file has no pages. ", tiers.map((tier, at) => [h("span.keep", h(`i.key.t${at % 6}`), `tier ${tier}`), " "]), held.length ? h("span.keep", h("i.key"), "not cached") : null);
    if (!all.length && map.pages) fill(lines, h("p.soft", "No worker is known."));
    else if (!held.length && map.pages) fill(lines, h("p.soft", "No worker has pages of it. Reading it, or Load, brings it here."));
    else fill(lines, held.map(([address, each]) => line(map, address, each, tiers)));
    if (all.length > held.length && held.length) lines.append(h("p.soft", `${count(all.length - held.length)} more ${all.length - held.length === 1 ? "worker has" : "workers have"} nothing of it.`));
    fill(left, map.gone.length ? h("details", h("summary", "What left the cache lately"), h("ul.plain", map.gone.map((gone) => h("li", `pages from ${exact(gone.group * 64)} on left ${gone.worker}: ${gone.why}, `, time(gone.at_ns, nowMs()))))) : null);
  }

  function line(map, address, each, tiers) {
    if (each.error) return h("div.worker", h("span.mono", address), h("span.note.bad", each.silent_s ? `lost: the master has not heard it for ${seconds(each.silent_s)} (${each.error})` : each.error));
    const words = `${exact(each.pages)} of ${exact(map.pages)} pages, ${percent(each.pages / map.pages)}`;
    const cells = h("div.cells", { role: "img", "aria-label": `${address}: ${words}` });
    for (let at = 0; at < map.cells; at += 1) {
      const cell = each.cells[at];
      const of = Math.min(map.pages_per_cell, map.pages - at * map.pages_per_cell);
      const first = at * map.pages_per_cell;
      const where = of === 1 ? `page ${exact(first)}` : `pages ${exact(first)} to ${exact(first + of - 1)}`;
      const title = cell ? `${where}: ${of === 1 ? "" : `${cell.pages} of ${of} `}in tier ${cell.tier}${cell.pinned ? ", pinned" : ""}` : `${where}: not here`;
      const box = h(cell ? `i.t${tiers.indexOf(cell.tier) % 6}` : "i", { title });
      if (cell && cell.pages < of) box.style.setProperty("--full", `${Math.max(12, Math.round((100 * cell.pages) / of))}%`);
      cells.append(box);
    }
    return h("div.worker", h("div", h("span.mono", address), " ", h("span.soft", words)), cells);
  }

  return { element, show };
}
