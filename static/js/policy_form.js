// The form of a policy, to set one or to change one: what changes is shown before it is sent.
import { ask } from "./api.js";
import { field, form, pairs } from "./dialog.js";
import { fill, h } from "./dom.js";
import { watch } from "./live.js";
import { checkDuration, checkInterval, checkSize, durationHint, intervalHint, readDuration, readInterval, readSize, writeDuration, writeInterval, writeSize } from "./units.js";

const WHOLE = 255;
const LAYOUT_LEAST = 26;
const LAYOUT_MOST = 40;
const COPIES_MOST = 8;
const WRITE_TYPES = [["", "as above it"], ["CACHE_THROUGH", "CACHE_THROUGH: in the store, and cached"], ["THROUGH", "THROUGH: in the store, not cached"], ["MUST_CACHE", "MUST_CACHE: cached only"]];
const PRIORITIES = [["", "as above it"], ["HIGH", "HIGH: stays longest"], ["MEDIUM", "MEDIUM"], ["LOW", "LOW: goes first"]];
const LAYOUTS = [["", "as above it"], [String(WHOLE), "whole: one worker caches a whole file"], ...Array.from({ length: LAYOUT_MOST - LAYOUT_LEAST + 1 }, (_, at) => [String(LAYOUT_LEAST + at), `blocks of ${writeSize(2 ** (LAYOUT_LEAST + at))}${at ? "" : ", the default"}`])];

export const checkCopies = (text) => (!String(text).trim() || (/^\d+$/.test(text) && text >= 1 && text <= COPIES_MOST) ? "" : `a whole number from 1 to ${COPIES_MOST}`);
export const writeLayout = (layout) => (layout === null ? "" : layout === WHOLE ? "whole" : writeSize(2 ** layout));

const SAYS = [["quota_bytes", "quota", writeSize], ["priority", "priority", String], ["ttl_s", "time to live", writeDuration], ["sync_interval_s", "looked at again after", writeInterval], ["write_type", "written", String], ["layout", "layout", writeLayout], ["replicas", "copies", String]];

function wholeSeconds(text) {
  const value = readDuration(text);
  return typeof value === "number" ? Math.round(value) : null;
}

/** Resolves with the policy as it is then, or null. `policy`: the one to change; `known()`: those there are, by path. */
export async function policyForm(policy, known) {
  const clean = (text) => (text.length > 1 ? text.replace(/\/+$/, "") : text);
  const path = policy ? null : field("Path", { placeholder: "/datasets", hint: "and everything below it", required: true, check: (text) => (text && !text.startsWith("/") ? "a path begins with /" : known()[clean(text)] ? "it has a policy already: change that one" : "") });
  const quota = field("Quota", { value: writeSize(policy?.quota_bytes), placeholder: "none", hint: "cached bytes on all workers together, such as 100GiB", check: checkSize });
  const priority = field("Priority", { options: PRIORITIES, value: policy?.priority ?? "", hint: "whose pages go first when room is needed" });
  const copies = field("Copies", { value: policy?.replicas ?? "", placeholder: "as above it", hint: "of each cached block, on as many workers: for speed, they keep nothing safe", check: checkCopies });
  const layout = field("Layout", { options: LAYOUTS, value: String(policy?.layout ?? ""), hint: "how files are cut into blocks, each cached by one worker: of files that are new, or change" });
  const ttl = field("Time to live in the cache", { value: writeDuration(policy?.ttl_s), placeholder: "none", hint: `${durationHint}: pages go so long after they came`, check: checkDuration });
  const interval = field("Look at the store again after", { value: writeInterval(policy?.sync_interval_s), placeholder: "as above it", hint: intervalHint, check: checkInterval });
  const write = field("How files are written", { options: WRITE_TYPES, value: policy?.write_type ?? "" });
  const news = h("div", { role: "status", "aria-live": "polite" });
  const changes = h("div.below", { "aria-live": "polite" });
  const first = policy && JSON.stringify({ ...policy, used_bytes: 0 });
  const leave = policy ? watch("policies", (value, topic) => {
    if (!value || topic.error) return;
    const now = value[policy.path];
    fill(news, !now ? h("p.note.warn", "Somebody removed this policy meanwhile. Saving sets it again.") : JSON.stringify({ ...now, used_bytes: 0 }) !== first ? h("p.note.warn", "Somebody changed this policy meanwhile. Saving puts what stands here in its place.") : null);
  }) : () => {};
  const body = () => ({
    path: policy ? policy.path : clean(path.value), quota_bytes: readSize(quota.value) ?? null, priority: priority.value || null, ttl_s: wholeSeconds(ttl.value), sync_interval_s: readInterval(interval.value) ?? null, write_type: write.value || null,
    layout: layout.value ? Number(layout.value) : null, replicas: copies.value ? Number(copies.value) : null,
  });
  const shown = (value, write) => (value === null ? "as above it" : write(value));
  function showChanges() {
    if (!policy) return;
    const now = body();
    const rows = SAYS.filter(([name]) => now[name] !== policy[name]).map(([name, title, write]) => [title, shown(policy[name], write), shown(now[name], write)]);
    fill(changes, h("h3", "What changes"), rows.length ? h("ul.changes", rows.map(([title, from, to]) => h("li", h("strong", title), ": ", h("s", from), " → ", to))) : h("p.hint", "nothing yet"));
  }
  const all = [path, quota, priority, copies, ttl, interval, layout, write].filter(Boolean);
  for (const each of all) each.input.addEventListener("input", showChanges);
  showChanges();
  const isSaid = () => { const sent = body(); return SAYS.some(([name]) => sent[name] !== null); };
  try {
    return await form(policy ? `Policy of ${policy.path}` : "New policy", {
      fields: [news, path, pairs(quota, priority, copies, ttl, interval, write, layout), changes], button: policy ? "Change it" : "Set it",
      act: async () => {
        if (!isSaid()) throw new Error(policy ? "nothing would be left of it: remove it instead" : "say at least one thing");
        return ask("PUT", "/policies", { body: body() });
      },
      blame: (error) => (/copies/.test(error.message) ? copies : /path/.test(error.message) ? path : null),
    });
  } finally {
    leave();
  }
}
