// What takes longer than a request: jobs, and changes of stores that are under way (intents). /jobs/intents, /jobs/17.
import { get, post } from "../api.js";
import { charts } from "../chart.js";
import { attempt, confirm } from "../dialog.js";
import { chip, empty, facts, fill, h, icon, meter, say, told } from "../dom.js";
import { bytes, bytesRate, count, date, exact, percent, rate, seconds, since, size } from "../format.js";
import { jobForm } from "../job_form.js";
import { nowMs, watch } from "../live.js";
import { go } from "../main.js";
import { rates } from "../rates.js";
import { table } from "../table.js";

const OWING = new Set(["delete", "move"]); // owe a store something: they can be paused, not stopped
const OPEN = new Set(["running", "paused"]);
const KINDS = { running: "", paused: "warn", done: "good", stopped: "warn", failed: "bad" };
const browse = (path) => `/browse${path.split("/").map(encodeURIComponent).join("/")}`;
const ago = (ns) => (ns ? h("time", { dateTime: new Date(ns / 1e6).toISOString(), title: date(ns / 1e6) }, since(ns / 1e6, nowMs())) : "–");
const took = (job) => (job.ended_ns ? seconds((job.ended_ns - job.created_ns) / 1e9) : job.eta_s === null ? "–" : `${seconds(Math.max(1, Math.round(job.eta_s)))} left`);

const state = (job) => h("span", chip(job.state === "running" && job.error ? "waiting" : job.state, KINDS[job.state] ?? "", job.error), job.failed ? h("span", " ", chip(`${count(job.failed)} failed`, "bad")) : null);

const totalOf = (job) => (job.total >= job.done ? job.total : -1); // what owes a store something finds more as it goes
const shareOf = (job) => (totalOf(job) > 0 ? job.done / job.total : job.state === "done" ? 1 : null);

function progress(job) {
  const words = `${exact(job.done)}${totalOf(job) >= 0 ? ` of ${exact(job.total)}` : ""}`;
  const share = shareOf(job);
  return h("span.usage", share === null ? h("span.meter", { role: "img", "aria-label": "how much there is to do is not known" }) : meter(`${percent(share)} done`, [share, job.state === "failed" ? "bad" : job.state === "done" && share < 1 ? "c2" : "", ""]), h("span", { title: words }, `${count(job.done)}${totalOf(job) >= 0 ? ` of ${count(job.total)}` : ""}`));
}

const old = (topic) => (topic.error ? h("p.note.bad", `What is shown is old: ${topic.error.message}. `, topic.error.hint) : null);

const words = (name) => { const text = name.replaceAll("_", " "); return text[0].toUpperCase() + text.slice(1); };
const FAILURES_SHOWN = 8;
const ENDED_LIVE = 100; // of those that ended, the topic tells so many (cluster_api.py)
const AGAIN_MS = 3000;
const failure = ([path, why]) => h("li", h("a.mono", { href: browse(path) }, path), h("br"), h("span.soft", why));

/** What a job was begun with, as a fact. */
const wish = ([name, text]) => (name === "bandwidth" ? ["Most a second", size(Number(text))] : [{ replicas: "Copies", metadata_only: "Listings only", index: "List", nul: "List in NULs", verify: "Compared", force: "Pinned too" }[name] ?? name, text]);

async function steer(number, action) {
  const act = () => post(`/jobs/${number}/${action}`);
  if (action === "stop") return confirm(`Stop job ${number}`, "What it has done stays done; it cannot be resumed.", act, { button: "Stop it" });
  return attempt(act, `Job ${number}: ${action === "pause" ? "paused" : "resumed"}`);
}

function buttons(job, words = true) {
  if (!told.viewer.write) return [];
  if (!OPEN.has(job.state)) return words && !OWING.has(job.kind) ? [h("button", { type: "button", onclick: () => again(job) }, icon("refresh"), "Begin again")] : [];
  const make = (action, text) => h(action === "stop" ? "button.danger" : "button", { type: "button", "aria-label": words ? null : `${text} job ${job.number}`, onclick: () => steer(job.number, action) }, text);
  return [job.state === "running" ? make("pause", "Pause") : make("resume", "Resume"), OWING.has(job.kind) ? null : make("stop", "Stop")];
}

async function begin() {
  const made = await jobForm();
  if (made) go(`/jobs/${made.number}`);
}

async function again(job) {
  const made = await attempt(() => post("/jobs", { kind: job.kind, path: job.path, arguments: job.arguments }));
  if (made) go(`/jobs/${made.number}`);
}

export function show(view, here) {
  if (/^\d+$/.test(here.rest)) return one(view, Number(here.rest));
  return here.rest === "intents" ? intents(view) : all(view);
}

function head(view, at, ...more) {
  const tab = (name, address, text) => h("a", { href: address, "aria-current": name === at ? "page" : null }, text);
  view.append(h("div.head", h("h1", "Jobs"), h("nav.tabs", { "aria-label": "Jobs and intents" }, tab("jobs", "/jobs", "Jobs"), tab("intents", "/jobs/intents", "Changes under way")), h("div.push", more)));
}

function all(view) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const choice = h("select", { "aria-label": "Which jobs", onchange: () => draw() }, [["", "All jobs"], ["open", "Running and paused"], ["failed", "Failed, or with failures"], ["ended", "Ended"]].map(([value, text]) => h("option", { value }, text)));
  const tally = h("span.soft", { role: "status" });
  const list = table([
    { name: "number", title: "Job", right: true, value: (row) => row.number, cell: (row) => h("a", { href: `/jobs/${row.number}` }, String(row.number)) },
    { name: "kind", title: "Kind", value: (row) => row.kind, cell: (row) => row.kind },
    { name: "state", title: "State", value: (row) => row.state, cell: state },
    { name: "done", title: "Progress", value: (row) => (row.total > 0 ? row.done / row.total : 0), cell: progress },
    { name: "rate", title: "Rate", right: true, value: (row) => row.rate, cell: (row) => rate(row.rate) },
    { name: "bytes", title: "Bytes", right: true, value: (row) => row.bytes_done, cell: (row) => size(row.bytes_done) },
    { name: "left", title: "Time", right: true, value: (row) => row.eta_s, cell: took },
    { name: "path", title: "Path", value: (row) => row.path, wide: true, cell: (row) => h("span.mono", { title: row.path }, row.path, row.target ? ` → ${row.target}` : "") },
    { name: "begun", title: "Begun", value: (row) => row.created_ns, cell: (row) => ago(row.created_ns) },
    { name: "act", title: "", stuck: true, cell: (row) => h("span.acts", buttons(row, false)) },
  ], {
    label: "Jobs", key: (row) => row.number, more: () => load(), sort: ["number", true], match: (row) => `${row.number} ${row.kind} ${row.state} ${row.path} ${row.target} ${row.user} ${row.error}`, open: (row) => go(`/jobs/${row.number}`),
    empty: empty("No jobs", h("p", "A job loads a directory into the cache, frees it, or looks at its store again."), told.viewer.write ? h("p", h("button.main", { type: "button", onclick: () => begin() }, "Begin one")) : null),
  });
  head(view, "jobs", told.viewer.write ? h("button.main", { type: "button", onclick: () => begin() }, icon("plus"), "New job") : null);
  view.append(trouble, h("div.tools", list.search, choice, list.tally, tally), h("div.live.snug", list.element));
  // All that are open come live, with those that ended last; who ended before them stays as it is, and comes page by page.
  let live = null;
  const ended = new Map();
  let cursor = 0; // what is loaded next are those with a lower number; 0: the newest; null: there are no more
  let loading = false;
  let turn = 0; // of asking from the newest on
  let isOver = false;
  const wanted = { "": () => true, open: (job) => OPEN.has(job.state), failed: (job) => job.state === "failed" || job.failed > 0, ended: (job) => !OPEN.has(job.state) };
  const draw = () => {
    if (live === null) return;
    const jobs = [...Object.values(live), ...[...ended.values()].filter((job) => !live[job.number])];
    list.show(jobs.filter(wanted[choice.value]));
    const running = jobs.filter((job) => job.state === "running").length;
    const none = choice.value && !list.rows().length && jobs.length ? "none of these" : "";
    say(tally, [none, running ? `${exact(running)} running` : "", cursor === null ? "" : loading ? "loading more…" : "more as you scroll"].filter(Boolean).join(" · "));
  };

  async function load() {
    if (live === null || loading || isOver || cursor === null || choice.value === "open") return;
    loading = true;
    const mine = turn;
    try {
      const page = Object.values(await get("/jobs/history", { before: cursor }));
      if (mine === turn) {
        keep(page);
        cursor = page.length ? Math.min(...page.map((job) => job.number)) : null;
      }
    } catch {
      await new Promise((done) => { setTimeout(done, AGAIN_MS); }); // the topic says what is wrong
    }
    loading = false;
    if (!isOver) draw();
  }

  function keep(jobs) {
    for (const job of jobs) if (!OPEN.has(job.state)) ended.set(job.number, job);
  }

  const leave = watch("jobs", (value, topic) => {
    fill(trouble, old(topic));
    if (!value || topic.error) return;
    const told = Object.values(value).filter((job) => !OPEN.has(job.state));
    // One that had ended before is among the last: so is all that ended since. Otherwise some ended unseen, and what came before is asked for anew.
    if (told.length < ENDED_LIVE) cursor = null;
    else if (live === null || !told.some((job) => ended.has(job.number))) { ended.clear(); cursor = 0; turn += 1; }
    keep(told);
    live = value;
    draw();
  });
  return () => { isOver = true; leave(); };
}

function intents(view) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const list = table([
    { name: "number", title: "Operation", right: true, value: (row) => row.number, cell: (row) => String(row.number) },
    { name: "kind", title: "Change", value: (row) => row.kind, cell: (row) => row.kind },
    { name: "path", title: "Path", value: (row) => row.path, wide: true, cell: (row) => h("span.mono", { title: row.path }, row.path, row.target ? ` → ${row.target}` : "") },
    { name: "state", title: "Waits for", value: (row) => row.state, cell: (row) => h("span", { title: row.state }, row.state) },
    { name: "error", title: "Trouble", value: (row) => row.error, cell: (row) => (row.error ? chip(row.error, "bad", row.error) : "–") },
    { name: "since", title: "Since", value: (row) => row.created_ns, cell: (row) => ago(row.created_ns) },
    { name: "principal", title: "By", value: (row) => row.principal, cell: (row) => row.principal || "–" },
    { name: "worker", title: "Worker", right: true, value: (row) => row.worker, cell: (row) => (row.worker ? h("a", { href: `/workers/${row.worker}` }, String(row.worker)) : "–") },
    { name: "key", title: "Key in the store", value: (row) => row.key, cell: (row) => h("span.mono", { title: row.key }, row.key) },
  ], {
    label: "Changes under way", key: (row) => row.number, sort: ["number", false], match: (row) => `${row.number} ${row.kind} ${row.path} ${row.target} ${row.state} ${row.error} ${row.principal}`,
    empty: empty("Nothing is under way", h("p", "Files being written, and deletes, renames and new directories below mounts, stand here until their store has them.")),
  });
  head(view, "intents");
  view.append(trouble, h("div.tools", list.search, list.tally), h("div.live.snug", list.element));
  return watch("intents", (value, topic) => { fill(trouble, old(topic)); if (value && !topic.error) list.show(Object.values(value)); });
}

function one(view, number) {
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const about = h("section.card.live");
  const bar = h("section.card.live");
  const failures = h("section.card.live", { hidden: true });
  const actions = h("div.push");
  const chipped = h("span", { role: "status" });
  const measure = rates();
  let said = "";
  const plots = charts(300, (take) => watch(`job:${number}`, (value, topic) => {
    if (!value || topic.error || !OPEN.has(value.state)) return;
    const now = measure(topic.at, { done: value.done, bytes: value.bytes_done });
    if (now) take({ at_s: Math.floor(topic.at / 1000), values: now });
  }));
  const graphs = h("div.grid", { hidden: true }, plots.add("Items", [{ series: "done", label: "through with", fill: true }], rate), plots.add("Bytes", [{ series: "bytes", label: "of them", fill: true }], bytesRate));
  view.append(h("div.head", h("h1", h("a", { href: "/jobs" }, "Jobs"), number), chipped, actions), trouble, h("div.grid", bar, about), graphs, failures);
  const leave = watch(`job:${number}`, (job, topic) => {
    if (topic.error) {
      const isGone = topic.error.error === "NotFound";
      fill(trouble, isGone ? h("p.note.warn", `${topic.error.message}. `, h("a", { href: "/jobs" }, "See all jobs")) : old(topic));
      if (isGone) fill(actions);
      return;
    }
    if (!job) return;
    fill(trouble, job.error ? h(`p.note.${job.state === "failed" ? "bad" : "warn"}`, job.state === "running" ? `It waits: ${job.error}` : job.error) : null);
    if (`${job.state} ${job.failed}` !== said) { said = `${job.state} ${job.failed}`; fill(chipped, state(job)); fill(actions, buttons(job)); }
    if (OPEN.has(job.state)) graphs.hidden = false;
    const share = shareOf(job);
    fill(bar, h("h2", "Progress"), share === null ? h("p.hint", "How much there is to do is not known yet.") : h("div.big", meter(`${percent(share)} done`, [share, job.state === "failed" ? "bad" : job.state === "done" && share < 1 ? "c2" : "", ""])), facts([
      ["Done", h("span", { title: exact(job.done) }, `${exact(job.done)}${totalOf(job) >= 0 ? ` of ${exact(job.total)}` : ""}${share === null ? "" : `, ${percent(share)}`}`)], ["Bytes", size(job.bytes_done)], ["Rate", OPEN.has(job.state) ? rate(job.rate) : job.ended_ns > job.created_ns ? `${rate(job.done / ((job.ended_ns - job.created_ns) / 1e9))} on average` : "–"],
      OPEN.has(job.state) ? ["Time left", job.eta_s === null ? "not known" : seconds(Math.max(1, Math.round(job.eta_s)))] : ["Took", took(job)], ["Failed", job.failed ? chip(exact(job.failed), "bad") : "none"],
    ]));
    fill(about, h("h2", "Job"), facts([
      ["Kind", job.kind], ["Path", h("a.mono", { href: browse(job.path) }, job.path)], job.target ? ["To", h("a.mono", { href: browse(job.target) }, job.target)] : null, ["By", job.user || "–"], ...Object.entries(job.arguments).map(wish),
      ["Begun", ago(job.created_ns)], ["Changed", ago(job.changed_ns)], job.ended_ns ? ["Ended", ago(job.ended_ns)] : null, ...Object.entries(job.counts).map(([name, value]) => (name.endsWith("_bytes") ? [words(name.slice(0, -6)), size(value)] : [words(name), exact(value)])),
    ]));
    failures.hidden = !job.failures.length;
    if (job.failures.length) fill(failures, h("h2", job.failed > job.failures.length ? `Failures: ${job.failures.length} of ${exact(job.failed)}` : "Failures"), h("ul.failures", job.failures.slice(0, FAILURES_SHOWN).map(failure)),
      job.failures.length > FAILURES_SHOWN ? h("details", { open: failures.querySelector("details")?.open }, h("summary", `${exact(job.failures.length - FAILURES_SHOWN)} more`), h("ul.failures", job.failures.slice(FAILURES_SHOWN).map(failure))) : null);
  });
  return () => { leave(); plots.stop(); };
}
