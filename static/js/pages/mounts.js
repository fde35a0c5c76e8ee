// Which stores are mounted where, how they answer, and what each is used for; /mounts?path=/x is one of them.
import { ask, post } from "../api.js";
import { charts } from "../chart.js";
import { attempt, field, form, toast } from "../dialog.js";
import { chip, empty, facts, fill, h, icon, told } from "../dom.js";
import { bytes, bytesRate, exact, percent, rate, seconds, size } from "../format.js";
import { watch } from "../live.js";
import { go } from "../main.js";
import { mountForm } from "../mount_form.js";
import { rates, ratio } from "../rates.js";
import { table } from "../table.js";
import { writeInterval } from "../units.js";

const address = (path) => `/mounts?path=${encodeURIComponent(path)}`;
const browse = (path) => `/browse${path.split("/").map(encodeURIComponent).join("/")}`;
const interval = (value) => (value === null ? "as the cluster's setting" : writeInterval(value));

function state(mount) {
  if (mount.ufs_mode === "noAccess") return chip("not asked", "warn", "its mode is noAccess");
  return mount.state === "ok" ? chip("ok", "good") : chip(mount.state, "bad", mount.error);
}

const modes = (mount) => [mount.readonly ? chip("read only") : null, mount.shared ? chip("shared") : null, mount.ufs_mode === "readOnly" ? chip("store read only", "warn") : null];

/** How long the store takes lately; where nothing was asked lately, since the workers began. */
function latency(use, now) {
  if (now && now.requests > 0) return [now.seconds / now.requests, "a request, lately"];
  return use && use.requests ? [use.seconds / use.requests, "a request, since the workers began"] : [null, ""];
}

export function show(view, here) {
  const path = here.query.get("path");
  return path === null ? all(view) : one(view, path);
}

async function add() {
  const made = await mountForm();
  if (made?.path) { toast(`${made.uri} is mounted at ${made.path}${made.note ? `: ${made.note}` : ""}`); go(address(made.path)); }
}

const old = (topic) => (topic.error ? h("p.note.bad", `What is shown is old: ${topic.error.message}. `, topic.error.hint) : null);

function all(view) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const missing = h("div", { role: "status", "aria-live": "polite" });
  const add_ = told.viewer.admin ? h("button.main", { type: "button", onclick: add }, icon("plus"), "Mount a store") : null;
  const list = table([
    { name: "path", title: "Path", value: (row) => row.path, cell: (row) => h("a", { href: address(row.path) }, row.path) },
    { name: "state", title: "Store", value: (row) => row.state, cell: (row) => h("span.acts", state(row), modes(row)) },
    { name: "latency", title: "Latency", right: true, value: (row) => row.latency[0], cell: (row) => h("span", { title: row.latency[1] }, seconds(row.latency[0])) },
    { name: "hit", title: "Hit ratio", right: true, value: (row) => row.hit, cell: (row) => h("span", { title: row.use ? `${exact(row.use.hits)} pages were cached, ${exact(row.use.misses)} not` : "" }, percent(row.hit)) },
    { name: "read", title: "Read from store", right: true, value: (row) => row.use?.store_read_bytes, cell: (row) => size(row.use?.store_read_bytes) },
    { name: "requests", title: "Requests", right: true, value: (row) => row.rates?.requests, cell: (row) => h("span", { title: row.use ? `${exact(row.use.requests)} so far, ${exact(row.use.failed)} failed` : "" }, rate(row.rates?.requests)) },
    { name: "uri", title: "Address", value: (row) => row.uri, wide: true, cell: (row) => h("span.mono", { title: row.uri }, row.uri) },
  ], {
    label: "Mounts", key: (row) => row.path, sort: ["path", false], match: (row) => `${row.path} ${row.uri} ${row.state} ${row.error}`, open: (row) => go(address(row.path)),
    empty: empty("Nothing is mounted yet", h("p", "A mount shows a bucket or a directory at a path of the tree."), told.viewer.admin ? h("p", h("button.main", { type: "button", onclick: add }, "Mount a store")) : h("p", "An administrator mounts stores.")),
  });
  view.append(h("div.head", h("h1", "Mounts"), h("div.push", add_)), trouble, missing, h("div.tools", list.search, list.tally), h("div.live.snug", list.element));

  let mounts = null;
  let uses = {};
  const meters = new Map();
  const draw = () => {
    if (!mounts) return;
    list.show(Object.values(mounts).map((mount) => { const [use, now] = uses[mount.path] ?? []; return { ...mount, use, rates: now, hit: use ? ratio(use.hits, use.misses) : null, latency: latency(use, now) }; }));
  };
  const left = [
    watch("mounts", (value, topic) => { fill(trouble, old(topic)); if (value) { mounts = value; draw(); } }),
    watch("mounts-use", (value, topic) => {
      fill(missing, !topic.error && value?.missing.length ? h("p.note.warn", `Not counted: ${value.missing.join(", ")}${value.unanswered > value.missing.length ? ` and ${exact(value.unanswered - value.missing.length)} more` : ""} did not answer.`) : null);
      if (!value || topic.error) return;
      uses = {};
      for (const [path, use] of Object.entries(value.mounts)) {
        if (!meters.has(path)) meters.set(path, rates());
        uses[path] = [use, meters.get(path)(topic.at, use)];
      }
      draw();
    }),
  ];
  return () => left.forEach((each) => each());
}

function one(view, path) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const about = h("section.card.live");
  const used = h("section.card.live");
  const chipped = h("span", { role: "status" });
  const actions = h("div.push");
  const measure = rates();
  const plots = charts(300, (take) => watch("mounts-use", (value, topic) => {
    const use = value?.mounts[path];
    if (topic.error || !use) return;
    const now = measure(topic.at, use);
    drawUse(use, now);
    if (now) take({ at_s: Math.floor(topic.at / 1000), values: { ...now, latency: now.requests > 0 ? now.seconds / now.requests : null } });
  }));
  const busy = h("button", { type: "button", onclick: test }, icon("refresh"), "Test");
  let mount = null;
  let shown = "";

  view.append(
    h("div.head", h("h1", h("a", { href: "/mounts" }, "Mounts"), h("span.mono", path)), chipped, actions),
    trouble, h("div.grid", about, used),
    h("div.grid.four",
      plots.add("Pages asked for", [{ series: "hits", label: "cached", fill: true }, { series: "misses", label: "fetched" }], rate),
      plots.add("Bytes", [{ series: "store_read_bytes", label: "from the store", fill: true }, { series: "store_written_bytes", label: "to the store" }, { series: "descriptor_bytes", label: "opened on this machine" }], bytesRate),
      plots.add("Requests to the store", [{ series: "requests", label: "all", fill: true }, { series: "failed", label: "failed" }], rate),
      plots.add("Latency of the store", [{ series: "latency", label: "a request" }], seconds)));

  async function test() {
    busy.disabled = true;
    await attempt(() => post("/mounts/test", { path }), "The store answers.");
    busy.disabled = false;
  }

  async function edit() {
    const made = await mountForm(mount);
    if (made) toast(`${path} is changed`);
  }

  async function remove() {
    const discard = field("Give up files that are in no store, uploads that are not complete, and changes that are not done", { type: "checkbox" });
    const gone = await form(`Remove the mount ${path}`, {
      fields: [h("p", "What is known and cached below it is forgotten. ", h("strong", "Nothing in the store is touched"), ": mounting it again shows the same files."), h("p.mono", mount.uri), discard.element],
      button: "Remove it", danger: true, act: () => ask("DELETE", "/mounts", { query: { path, discard: discard.value } }),
    });
    if (gone) { toast(`${path} is not mounted any more`); go("/mounts"); }
  }

  function drawUse(use, now) {
    const [took, when] = latency(use, now);
    fill(used, h("h2", "What it is used for"), facts([
      ["Hit ratio", h("span", { title: `${exact(use.hits)} pages were cached, ${exact(use.misses)} not` }, percent(ratio(use.hits, use.misses)))],
      ["Read from the store", size(use.store_read_bytes)], ["Written to the store", size(use.store_written_bytes)], ["Opened on its machine", size(use.descriptor_bytes)],
      ["Requests", h("span", exact(use.requests), use.failed ? h("span", ", ", chip(`${exact(use.failed)} failed`, "warn")) : ", none failed")],
      ["Latency", took === null ? "nothing was asked yet" : `${seconds(took)} ${when}`],
      use.stale_served ? ["Served old", `${exact(use.stale_served)} answers, while the store did not answer`] : null,
    ]), h("p.hint", "All live workers and the leading master, since each began."));
  }

  const begun = told.viewer.admin ? [busy, h("button", { type: "button", onclick: edit }, "Change"), h("button.danger", { type: "button", onclick: remove }, "Remove"), h("a.button", { href: browse(path) }, icon("browse"), "Browse")] : [busy, h("a.button", { href: browse(path) }, icon("browse"), "Browse")];
  const leave = watch("mounts", (value, topic) => {
    fill(trouble, old(topic));
    if (!value) return;
    const now = value[path];
    if (!now) {
      fill(trouble, h("p.note.warn", mount ? "This mount was removed. What is shown is as it was. " : `Nothing is mounted at ${path}. `, h("a", { href: "/mounts" }, "See all mounts")));
      fill(actions);
      shown = "";
      fill(chipped, chip("not mounted", "warn"));
      return;
    }
    if (!mount || !actions.childNodes.length) fill(actions, begun);
    mount = now;
    if (now.error) trouble.append(h("p.note.bad", now.error));
    const said = JSON.stringify({ ...now, asked: null });
    if (said === shown) return;
    shown = said;
    fill(chipped, state(now));
    fill(about, h("h2", "Mount"), facts([
      ["Store", h("span.mono", now.uri)], ["State", h("span", state(now), " ", modes(now))], ["Mode", now.ufs_mode], ["Read only", now.readonly ? "yes" : "no"], ["Looked at again", interval(now.sync_interval_s)],
      ...Object.entries(now.options).map(([name, text]) => [name, h("span.mono", text)]), ...now.secrets.map((name) => [name, h("span.soft", "set, not shown")]), ["Number", String(now.id)],
    ]));
  });
  return () => { leave(); plots.stop(); };
}
