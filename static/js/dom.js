// Elements made by functions. Text is always text: nothing here reads HTML, so a file called <script> is only a name.

export const told = JSON.parse(document.getElementById("told").textContent);
export const asset = (name) => `/static/${told.release}/${name}`;

/** h("td.right", { title: "…", onclick: f }, child, …): an element. Children: nodes, text, numbers, arrays; null and false are left out. */
export function h(tag, ...rest) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  if (rest.length && isProperties(rest[0])) set(element, rest.shift());
  add(element, rest);
  return element;
}

const isProperties = (value) => value !== null && typeof value === "object" && !(value instanceof Node) && !Array.isArray(value);

function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name in element && !name.startsWith("aria") && name !== "list" && name !== "form") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
}

function add(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) add(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
}

/** Put these in the place of what an element holds. What had the focus has it again, if something of its kind and name is there still. */
export function fill(element, ...children) {
  const had = element.childNodes.length && element.contains(document.activeElement) ? document.activeElement : null;
  element.replaceChildren();
  add(element, children);
  if (had && !had.isConnected) [...element.querySelectorAll(had.localName)].find((each) => nameOf(each) === nameOf(had))?.focus({ preventScroll: true });
  return element;
}

const nameOf = (element) => element.getAttribute("aria-label") ?? element.textContent;

/** Text that changes: touches the page only when it is another one. */
export function say(element, text, title) {
  if (element.textContent !== text) element.textContent = text;
  if (title !== undefined && element.title !== title) element.title = title;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", asset(`icons.svg#${name}`));
  svg.append(use);
  return svg;
}

export const chip = (text, kind = "", title = "") => h(`span.chip${kind ? "." + kind : ""}`, { title }, text);
export const empty = (title, ...more) => h("div.card.empty", h("h2", title), ...more);
/** Names and values; `columns`: in two of them where there is room. */
export const facts = (rows, { columns = false } = {}) => h(columns ? "dl.facts.columns" : "dl.facts", rows.filter(Boolean).map(([name, value]) => { const pair = [h("dt", name), h("dd", value)]; return columns ? h("div", pair) : pair; }));

/** A bar: parts as [share of 1, class, title]. */
export function meter(label, ...parts) {
  return h("div.meter", { role: "img", "aria-label": label, title: label },
    parts.map(([share, kind, title]) => h(`i${kind ? "." + kind : ""}`, { title, style: { width: `${Math.min(100, Math.max(0, share * 100))}%` } })));
}
