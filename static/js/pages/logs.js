// The last lines of this node's log, and of the audit log, as they are written: filtered by level and words, paused, downloaded.
import { chip, empty, fill, h, icon, say, told } from "../dom.js";
import { exact } from "../format.js";
import { watch } from "../live.js";

const KEPT = 3000; // lines this page remembers
const DRAWN = 800; // of those that match, the last ones
const LEVELS = ["debug", "info", "warning", "error", "critical"];
const KINDS = { warning: "warn", error: "bad", critical: "bad" };
const COMMON = new Set(["time", "level", "logger", "event"]);
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

export function show(view, here) {
  const log = here.rest === "audit" ? "audit" : "logs";
  const isAudit = log === "audit";
  const tab = (href, text, now) => h("a", { href, "aria-current": now ? "page" : null }, text);
  view.append(h("div.head", h("h1", "Logs"), h("nav.tabs", { "aria-label": "Which log" }, tab("/logs", "Node", !isAudit), tab("/logs/audit", "Audit", isAudit)), h("span.soft", "of this node")));
  if (!told.viewer.admin) {
    view.append(empty("The logs are for administrators", h("p", "They tell of everybody's files. Sign in with a token that has the right admin.")));
    return () => {};
  }

  const lines = new Map(); // number -> { number, line, text }
  let words = [];
  let level = here.query.get("level") ?? "";
  let isPaused = false;
  let waiting = 0;
  let highest = 0;
  let missed = 0;
  const search = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter lines", value: here.query.get("words") ?? "", oninput: filter });
  const levels = h("select", { "aria-label": "Level", onchange: () => { level = levels.value; filter(); } },
    h("option", { value: "" }, "every level"), LEVELS.map((each) => h("option", { value: each, selected: each === level }, each === "debug" ? "debug and up" : `${each} and up`)));
  const pause = h("button", { type: "button", "aria-pressed": false, onclick: () => { isPaused = !isPaused; pause.setAttribute("aria-pressed", isPaused); if (!isPaused) { waiting = 0; draw(); toEnd(); } tell(); } }, "Pause");
  const file = h("a.button", { download: "" }, icon("download"), "Download");
  const tally = h("span.soft", { role: "status" });
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const body = h("div.log", { role: "log", "aria-live": "off", "aria-label": isAudit ? "Audit log" : "Log of this node" });
  const box = h("div.scroll.live", { tabIndex: 0, role: "region", "aria-label": "Lines" }, body);
  const nothing = h("div", { hidden: true });
  view.append(trouble, h("div.tools", search, isAudit ? null : levels, pause, file, tally), box, nothing);
  let drawn = []; // numbers in the page

  function filter() {
    words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const query = new URLSearchParams({ ...(level ? { level } : {}), ...(words.length ? { words: words.join(" ") } : {}) });
    file.href = `/api/v1/logs/${log}/file?${new URLSearchParams([...query, ["lines", "2000"]])}`;
    history.replaceState({}, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
    drawn = [];
    fill(body);
    draw();
    toEnd();
  }

  const matches = ({ line, text }) => (!level || LEVELS.indexOf(line.level ?? "info") >= LEVELS.indexOf(level)) && words.every((word) => text.includes(word));
  const isAtEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const toEnd = () => { box.scrollTop = box.scrollHeight; };

  function draw() {
    if (isPaused) return tell();
    const follow = isAtEnd();
    const wanted = [...lines.values()].filter(matches).slice(-DRAWN);
    const keep = new Set(wanted.map((each) => each.number));
    for (const node of [...body.childNodes]) if (!keep.has(node.number)) node.remove();
    const have = new Set(drawn.filter((each) => keep.has(each)));
    body.append(...wanted.filter((each) => !have.has(each.number)).map(isAudit ? auditLine : logLine));
    drawn = wanted.map((each) => each.number);
    tell();
    if (follow) toEnd();
    return undefined;
  }

  function tell() {
    const parts = [`${exact(drawn.length)} of ${exact(lines.size)} lines`];
    if (isPaused) parts.push(`paused${waiting ? `, ${exact(waiting)} new` : ""}`);
    if (missed) parts.push(`${exact(missed)} came too fast to be shown: see the file`);
    say(tally, parts.join(" · "));
    say(pause, isPaused ? "Go on" : "Pause");
    box.hidden = !drawn.length;
    nothing.hidden = Boolean(drawn.length);
    if (!drawn.length) fill(nothing, lines.size ? empty("No line matches", h("p", "Change the words or the level.")) : empty(isAudit ? "Nothing was changed yet" : "Nothing was logged yet", h("p", isAudit ? "Every change of a file, a mount or the cluster leaves a line here, with who asked for it and from where." : "Lines appear as they are written.")));
  }

  function taken(value) {
    let fresh = 0;
    for (const [key, line] of Object.entries(value)) {
      const number = Number(key);
      if (lines.has(number) || number < highest - KEPT) continue;
      lines.set(number, { number, line, text: JSON.stringify(line).toLowerCase() });
      fresh += 1;
    }
    const numbers = [...lines.keys()];
    const now = Math.max(0, ...numbers);
    if (highest && now - highest > fresh) missed += now - highest - fresh;
    highest = now;
    for (const number of numbers) { if (lines.size <= KEPT) break; lines.delete(number); }
    if (isPaused) waiting += fresh;
  }

  const leave = watch(log, (value, topic) => {
    if (topic.error) fill(trouble, h("p.note.bad", `The log cannot be had: ${topic.error.message}`));
    else if (trouble.childNodes.length) fill(trouble);
    if (!value) return;
    if (highest && Object.keys(value).length && Math.max(...Object.keys(value).map(Number)) < highest) { lines.clear(); drawn = []; highest = 0; fill(body); } // the node began anew
    taken(value);
    draw();
  });
  filter();
  return leave;
}

function when(line) {
  const at = new Date(line.time ?? NaN);
  return Number.isNaN(at.getTime()) ? h("span.when") : h("time.when", { dateTime: line.time, title: full.format(at) }, clock.format(at));
}

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function row(entry, kind, ...summary) {
  const more = h("pre", { tabIndex: 0 });
  const element = h(`details.entry${kind ? "." + kind : ""}`, { ontoggle: () => { if (element.open && !more.textContent) more.textContent = Object.entries(entry.line).map(([name, value]) => `${name}: ${text(value)}`).join("\n"); } },
    h("summary", when(entry.line), ...summary), more);
  element.number = entry.number;
  return element;
}

function logLine(entry) {
  const { line } = entry;
  const level = line.level ?? "";
  const rest = Object.entries(line).filter(([name]) => !COMMON.has(name) && name !== "exception");
  return row(entry, KINDS[level], chip(level || "–", KINDS[level] ?? ""), h("span.event", line.event ?? ""), h("span.soft.mono", rest.map(([name, value]) => `${name}=${text(value)}`).join(" ")), line.exception ? chip("with a traceback", "bad") : null);
}

function auditLine(entry) {
  const { line } = entry;
  const outcome = !line.allowed ? chip("refused", "bad") : line.succeeded ? chip("done", "good") : chip(`failed, ${line.error}`, "warn");
  return row(entry, line.allowed === false ? "bad" : "", outcome, h("span.event", line.command ?? line.event ?? ""), h("span.mono", line.source ?? "", line.target ? ` → ${line.target}` : ""), h("span.soft", `${line.principal ?? ""} ${line.peer ?? ""}`));
}
