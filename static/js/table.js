// A table that stays fluid with 100,000 rows: only what is seen is in the page. Sorted by its headings, filtered by words, walked by keys.
import { fill, h } from "./dom.js";

const ROW = 36;
const MARGIN = 12;
const AGES_MS = 5000;

const classes = ({ right, wide, stuck }) => `${right ? ".right" : ""}${wide ? ".wide" : ""}${stuck ? ".stuck" : ""}`;

/**
 * columns: [{ name, title, cell: (row) => node or text, value?: (row) => what it is sorted by, right?, wide?, stuck?: it stays in sight at the end }]
 * options: key: (row) => string, sort: [name, descending], match: (row) => text the filter looks in, open?: (row) => void, empty: node, label,
 *          more?: () => void, called when the end comes near (rows that are loaded page by page).
 * Gives { element, search, show(rows), rows(), focus(), press(key), end() }.
 */
export function table(columns, { key, sort, match, open, empty, label, more }) {
  let all = [];
  let shown = [];
  let [by, down] = sort ?? ["", false];
  const first = `${[by, down]}`;
  let words = [];
  let focused = -1;
  let isOver = false;
  let drawn = new Map();
  const body = h("tbody");
  const above = h("tr.pad", { "aria-hidden": "true" }, h("td", { colSpan: columns.length }));
  const below = h("tr.pad", { "aria-hidden": "true" }, h("td", { colSpan: columns.length }));
  const heads = columns.map((column) => {
    const inner = column.value ? h("button", { type: "button", onclick: () => order(column.name) }, column.title) : h("span", column.title);
    return h(`th${classes(column)}`, { scope: "col" }, inner);
  });
  const grid = h("table", { "aria-label": label }, h("thead", h("tr", heads)), body);
  const box = h("div.scroll", { tabIndex: 0, role: "region", "aria-label": label, onscroll: () => draw(), onkeydown: keys }, grid);
  const nothing = h("div", { hidden: true }, empty); // until the first rows, or that there are none, are told
  const tally = h("span.soft", { role: "status", "aria-live": "polite" });
  const search = h("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${label.toLowerCase()}`, oninput: () => { words = search.value.toLowerCase().split(/\s+/).filter(Boolean); box.scrollTop = 0; arrange(); } });
  const element = h("div", box, nothing);
  box.hidden = nothing.hidden = true; // until it is known what there is

  function order(name) {
    if (by === name) down = !down;
    else [by, down] = [name, false];
    arrange();
  }

  function arrange() {
    shown = words.length ? all.filter((row) => { const text = match(row).toLowerCase(); return words.every((word) => text.includes(word)); }) : all.slice();
    const column = columns.find((each) => each.name === by);
    if (column) {
      const collate = new Intl.Collator(undefined, { numeric: true });
      const keyed = shown.map((row) => [column.value(row), row]);
      keyed.sort(([a], [b]) => (a ?? "") === (b ?? "") ? 0 : typeof a === "number" && typeof b === "number" ? a - b : a === null || a === undefined ? -1 : b === null || b === undefined ? 1 : collate.compare(String(a), String(b)));
      if (down) keyed.reverse();
      shown = keyed.map(([, row]) => row);
    }
    heads.forEach((head, at) => head.setAttribute("aria-sort", columns[at].name === by ? (down ? "descending" : "ascending") : "none"));
    box.hidden = !all.length;
    nothing.hidden = Boolean(all.length);
    search.hidden = !all.length;
    const text = words.length ? `${shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")}` : all.length > 20 ? all.length.toLocaleString("en") : "";
    if (tally.textContent !== text) tally.textContent = text;
    grid.setAttribute("aria-rowcount", shown.length + 1);
    draw();
  }

  function draw() {
    const height = box.clientHeight || 600;
    const from = Math.max(0, Math.floor(box.scrollTop / ROW) - MARGIN);
    const to = Math.min(shown.length, Math.ceil((box.scrollTop + height) / ROW) + MARGIN);
    const next = new Map();
    const rows = [];
    for (let at = from; at < to; at += 1) {
      const row = shown[at];
      const id = key(row);
      let line = drawn.get(id);
      if (!line) {
        const made = (line = { row, element: h("tr", cells(row)) });
        if (open) made.element.addEventListener("dblclick", () => open(made.row));
      } else if (line.row !== row) {
        line.row = row;
        renew(line.element, cells(row));
      }
      line.element.setAttribute("aria-rowindex", at + 2);
      line.element.setAttribute("aria-selected", at === focused);
      next.set(id, line);
      rows.push(line.element);
    }
    drawn = next;
    above.firstChild.style.height = `${from * ROW}px`;
    below.firstChild.style.height = `${(shown.length - to) * ROW}px`;
    const wanted = [above, ...rows, below];
    if (wanted.length !== body.childNodes.length || wanted.some((each, at) => body.childNodes[at] !== each)) place(wanted);
    if (more && (`${[by, down]}` !== first || to >= shown.length - MARGIN)) more(); // what is sorted otherwise than it comes, is sorted as a whole
  }

  // Of a row that changed only the cells that look different are replaced, and the focus stays where it was: a click that is under way in another cell is not lost. So what a
  // cell's button does must go by the row's key, not by what else the row said.
  function renew(element, next) {
    next.forEach((cell, at) => {
      const old = element.children[at];
      if (old.isEqualNode(cell)) return;
      const had = [...old.querySelectorAll("a, button, input, select")].indexOf(document.activeElement);
      old.replaceWith(cell);
      if (had >= 0) (cell.querySelectorAll("a, button, input, select")[had] ?? box).focus({ preventScroll: true });
    });
  }

  // Nodes that stay are not moved, so that focus in them stays too.
  function place(wanted) {
    const keep = new Set(wanted);
    for (const node of [...body.childNodes]) if (!keep.has(node)) node.remove();
    wanted.forEach((node, at) => { if (body.childNodes[at] !== node) body.insertBefore(node, body.childNodes[at] ?? null); });
  }

  function cells(row) {
    return columns.map((column) => h(`td${classes(column)}`, column.cell(row)));
  }

  function keys(event) {
    const isOther = event.altKey || event.ctrlKey || event.metaKey; // Alt and an arrow is the page's, Ctrl and a letter the browser's
    if (event.target === box && !isOther && press(event.key)) event.preventDefault();
  }

  /** What a key does; whether it does something. */
  function press(key) {
    if (isOver) return false;
    const page = Math.max(1, Math.floor(box.clientHeight / ROW) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[key];
    if (step !== undefined) {
      focused = Math.max(0, Math.min(shown.length - 1, focused + step));
      const top = focused * ROW;
      if (top < box.scrollTop) box.scrollTop = top;
      if (top + 2 * ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + 2 * ROW - box.clientHeight;
      draw();
      return true;
    }
    if (key !== "Enter" || !open || !shown[focused]) return false;
    open(shown[focused]);
    return true;
  }

  new ResizeObserver(() => draw()).observe(box);
  // A row that did not change still says how long ago something was.
  const aging = setInterval(() => {
    if (element.isConnected) for (const line of drawn.values()) renew(line.element, cells(line.row));
    else clearInterval(aging);
  }, AGES_MS);
  return {
    element, search, tally, press,
    end() { isOver = true; }, // its page is left: keys are for the next one, though it may still be seen for a moment
    show(rows) { all = rows; arrange(); },
    rows: () => all,
    focus() { box.focus(); if (focused < 0 && shown.length) { focused = 0; draw(); } },
    empty(...children) { fill(nothing, ...children); },
  };
}
