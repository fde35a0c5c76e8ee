// Every setting of the leading master: what it is, what it would be, where it comes from. What differs from the default stands out; secrets are never here.
import { get } from "../api.js";
import { chip, empty, facts, fill, h, told } from "../dom.js";
import { bytes, exact } from "../format.js";
import { watch } from "../live.js";
import { table } from "../table.js";

const SECRET = "***";
const differs = (row) => row.value !== row.default && !(row.value === SECRET && row.source === "default");
const shown = (text) => (text === SECRET ? h("span.soft", "kept secret") : text === "" ? h("span.soft", "empty") : h("span.mono.cut", { title: text }, text));
const isSize = (row, text) => row.unit === "bytes" && /^\d{4,}$/.test(text);
const human = (row, text) => (isSize(row, text) ? h("span", { title: `${exact(Number(text))} bytes` }, bytes(Number(text))) : shown(text));
const full = (row, text) => [shown(text), isSize(row, text) ? h("span.soft", ` ${bytes(Number(text))}`) : null];

export function show(view, here) {
  const ofNode = here.query.has("node") ? here.query.get("node") === "yes" : told.node.role === "worker";
  const tab = (isNode, text) => h("a", { href: `/configuration?node=${isNode ? "yes" : "no"}`, "aria-current": isNode === ofNode ? "page" : null }, text);
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const one = h("div");
  const only = h("input", { type: "checkbox", id: "only", onchange: () => draw() });
  let all = [];
  const settings = table([
    { name: "name", title: "Setting", cell: (row) => h("a.mono", { href: `/configuration/${row.name}${ofNode ? "?node=yes" : ""}` }, row.name), value: (row) => row.name },
    { name: "value", title: "Value", cell: (row) => (differs(row) ? h("strong", { title: row.value }, human(row, row.value)) : human(row, row.value)), value: (row) => row.value },
    { name: "default", title: "Default", cell: (row) => (differs(row) ? human(row, row.default) : h("span.soft", "the same")), value: (row) => row.default },
    { name: "source", title: "Comes from", cell: (row) => (row.source === "default" ? h("span.soft", "default") : chip(row.source, "warn")), value: (row) => row.source },
    { name: "doc", title: "What it is", wide: true, cell: (row) => h("span", { title: row.doc }, row.doc) },
    { name: "unit", title: "Unit", cell: (row) => h("span.soft", row.unit), value: (row) => row.unit },
  ], {
    key: (row) => row.name, sort: ["name", false], label: "Settings",
    match: (row) => `${row.name} ${row.value} ${row.source} ${row.doc}`,
    empty: empty("Nothing differs from its default", h("p", "Settings come from the file ", h("code", "--config"), " names, ", h("code", "MONOFS_…"), " in the environment, and ", h("code", "--set section.key=value"), ".")),
  });
  view.append(
    h("div.head", h("h1", "Configuration"), h("nav.tabs", { "aria-label": "Whose settings" }, tab(false, "Leading master"), tab(true, "This node"))),
    trouble, one,
    h("div.tools", settings.search, h("span.check", only, h("label", { htmlFor: "only" }, "only what differs from the default")), settings.tally),
    h("div.live", settings.element));

  function draw() {
    settings.show(only.checked ? all.filter(differs) : all);
    const row = all.find((each) => each.name === here.rest);
    if (!here.rest) return;
    if (!row) { fill(one, h("p.note.warn", `There is no setting ${here.rest}: look for it below.`)); return; }
    const [section, key] = row.name.split(".");
    fill(one, h("section.card.below", { "aria-label": row.name }, h("h2.mono", row.name), h("p", row.doc),
      facts([["Value", full(row, row.value)], ["Default", full(row, row.default)], ["Comes from", row.source], ["Unit", row.unit || "none"]]),
      h("p.hint", "To change it: ", h("code", `--set ${row.name}=…`), ", ", h("code", `MONOFS_${row.name.replace(".", "_").toUpperCase()}=…`), " in the environment, or ", h("code", `${key} = …`), " below ", h("code", `[${section}]`), " in the file of settings; then start the node again.")));
  }

  if (ofNode) {
    get("/configuration/node").then((items) => { all = items; draw(); }, (error) => fill(trouble, h("p.note.bad", `The settings cannot be had: ${error.message}`)));
    return () => {};
  }
  const leave = watch("configuration", (value, topic) => {
    if (topic.error) fill(trouble, h("p.note.bad", `The settings cannot be had: ${topic.error.message}. What is shown is old.`));
    else if (trouble.childNodes.length) fill(trouble);
    if (!value || value.items === all) return;
    all = value.items;
    draw();
  });
  return leave;
}
