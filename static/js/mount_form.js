// The form of a mount, to add one or to change one. What options there are, and whether what is typed would do, comes from the store's own table (/stores/kinds, /stores/check).
import { ask, get, post } from "./api.js";
import { field, form } from "./dialog.js";
import { fill, h } from "./dom.js";
import { watch } from "./live.js";
import { checkInterval, intervalHint, readInterval, writeInterval } from "./units.js";

const PLAIN = 5; // options that are shown at once; the others are behind "More options", unless they are set
const MODES = [["readWrite", "read and write"], ["readOnly", "read only, for now: nothing is changed in the store"], ["noAccess", "no access, for now: the store is not asked at all"]];
const schemeOf = (uri, kinds) => Object.keys(kinds).find((each) => uri.startsWith(`${each}://`)) ?? (uri.startsWith("/") ? "file" : null);

/** Resolves with the mount as it is then, or null. `mount`: the one to change; null: a new one. */
export async function mountForm(mount = null) {
  const kinds = await get("/stores/kinds");
  let scheme = mount ? schemeOf(mount.uri, kinds) : Object.keys(kinds)[0];
  let fields = {};
  let problems = {};
  let gone = "";
  const touched = new Set();

  const check = (name) => (text) => (text || touched.has(name) ? problems[name] ?? "" : "");
  const kind = mount ? null : field("Kind of store", { options: Object.entries(kinds).map(([name, each]) => [name, each.title]), value: scheme });
  const path = mount ? null : field("Path", { placeholder: "/datasets", hint: "where it shows in the tree", check: check("path"), required: true });
  const uri = mount ? null : field("Store", { check: check("uri"), required: true });
  const readonly = field("Read only: nothing is ever written through this mount", { type: "checkbox", value: mount?.readonly });
  const shared = mount ? null : field("Shared: the same store may be mounted at a second path", { type: "checkbox" });
  const mode = field("What may be done with the store now", { options: MODES, value: mount?.ufs_mode ?? "readWrite" });
  const had = writeInterval(mount?.sync_interval_s);
  const interval = field("Look at the store again after", { value: had, placeholder: "as the cluster's setting", hint: intervalHint, check: (text) => checkInterval(text) || (had && !text.trim() ? "an interval can be changed, not taken back" : "") });
  const options = h("div");
  const together = h("div", { role: "alert" });
  const tried = h("div", { role: "status", "aria-live": "polite" });
  const news = h("div", { role: "status", "aria-live": "polite" });
  const changes = h("div", { "aria-live": "polite" });
  const tryIt = h("button", { type: "button", onclick: test }, "Try it");

  function draw() {
    fields = {};
    const plain = [];
    const more = [];
    kinds[scheme].options.forEach((option, at) => {
      const made = optionField(option);
      fields[option.name] = made;
      const isSet = mount && (option.name in mount.options || mount.secrets.includes(option.name));
      (at < PLAIN || isSet ? plain : more).push(made.drop ? h("div", made.element, made.drop.element) : made.element);
    });
    if (uri) uri.input.placeholder = kinds[scheme].example;
    fill(options, h("div.pairs", plain), more.length ? h("details", h("summary", "More options"), h("div.inner", h("div.pairs", more))) : null);
  }

  function optionField(option) {
    const isKept = option.secret && mount?.secrets.includes(option.name);
    const settings = { value: mount?.options[option.name] ?? "", hint: option.doc, check: check(option.name), placeholder: option.default };
    if (option.secret) Object.assign(settings, { type: "password", value: "", placeholder: isKept ? "set: leave empty to keep it" : "" });
    if (option.kind === "boolean") settings.options = [["", option.default ? `as by default: ${option.default}` : "as it is found"], ["true", "true"], ["false", "false"]];
    const made = field(option.name, settings);
    if (option.kind === "integer") { made.input.inputMode = "numeric"; made.element.title = `${option.least} to ${option.most}`; }
    made.option = option;
    if (isKept) made.drop = field(`Remove the ${option.name} that is set`, { type: "checkbox" });
    return made;
  }

  const given = () => Object.fromEntries(Object.entries(fields).filter(([, each]) => each.value).map(([name, each]) => [name, each.value]));

  /** Options that are other than the mount's; '' removes one. */
  function changed() {
    const out = {};
    for (const [name, each] of Object.entries(fields)) {
      if (each.option.secret) { if (each.value) out[name] = each.value; else if (each.drop?.value) out[name] = ""; } else if (each.value !== (mount?.options[name] ?? "")) out[name] = each.value;
    }
    return out;
  }

  function body() {
    const seconds = readInterval(interval.value);
    if (!mount) return { path: path.value, uri: uri.value, options: given(), readonly: readonly.value, shared: shared.value, sync_interval_s: seconds, ufs_mode: mode.value };
    const sent = { path: mount.path, options: changed() };
    if (readonly.value !== mount.readonly) sent.readonly = readonly.value;
    if (mode.value !== mount.ufs_mode) sent.ufs_mode = mode.value;
    if (seconds !== null && seconds !== mount.sync_interval_s) sent.sync_interval_s = seconds;
    return sent;
  }

  function showChanges() {
    if (!mount) return;
    const sent = body();
    const rows = Object.entries(sent.options).map(([name, value]) => (fields[name].option.secret ? [name, mount.secrets.includes(name) ? "as it is set" : "not set", value ? "another one" : "removed"] : [name, mount.options[name] || "not set", value || "not set"]));
    if ("readonly" in sent) rows.push(["read only", mount.readonly ? "yes" : "no", sent.readonly ? "yes" : "no"]);
    if ("ufs_mode" in sent) rows.push(["mode", mount.ufs_mode, sent.ufs_mode]);
    if ("sync_interval_s" in sent) rows.push(["look again after", had || "the cluster's setting", writeInterval(sent.sync_interval_s)]);
    fill(changes, h("h3", "What changes"), rows.length ? h("ul.changes", rows.map(([name, from, to]) => h("li", h("strong", name), ": ", h("s", from), " → ", to))) : h("p.hint", "nothing yet"));
  }

  async function validate() {
    const mine = (validate.turn = (validate.turn ?? 0) + 1);
    const plain = Object.fromEntries(Object.entries(fields).filter(([, each]) => !each.option.secret && each.value).map(([name, each]) => [name, each.value]));
    const secrets = Object.values(fields).filter((each) => each.option.secret && (each.value || (mount?.secrets.includes(each.option.name) && !each.drop?.value))).map((each) => each.option.name);
    const answer = await post("/stores/check", { kind: scheme, path: path ? path.value || "/" : mount.path, uri: uri ? uri.value : mount.uri, options: plain, secrets, new: !mount });
    if (mine !== validate.turn) return;
    problems = answer.problems;
    if (path && !path.value) problems.path = "give a path";
    for (const each of [path, uri, interval, ...Object.values(fields)]) each?.check();
    fill(together, problems[""] ? h("p.note.bad", problems[""]) : null);
    for (const name of Object.keys(problems)) { const hidden = fields[name]?.element.closest("details"); if (hidden) hidden.open = true; }
  }

  let timer = 0;
  function edited(event) {
    const each = [["path", path], ["uri", uri], ...Object.entries(fields)].find(([, one]) => one?.input === event.target);
    if (each) { touched.add(each[0]); delete problems[each[0]]; each[1].check(); }
    if (uri && event.target === uri.input) { const found = schemeOf(uri.value, kinds); if (found && found !== scheme) { scheme = kind.input.value = found; draw(); } }
    if (kind && event.target === kind.input) { scheme = kind.value; draw(); }
    fill(tried);
    showChanges();
    clearTimeout(timer);
    timer = setTimeout(() => validate().catch(() => {}), 250);
  }

  async function settle() {
    clearTimeout(timer);
    ["path", "uri"].forEach((each) => touched.add(each));
    await validate();
    const wrong = Object.values(problems)[0] || (interval.check() ? "" : checkInterval(interval.value) || "an interval can be changed, not taken back");
    if (wrong) throw new Error(wrong);
    if (gone) throw new Error(gone);
  }

  const send = (isTry) => (mount ? ask("PATCH", "/mounts", { body: { ...body(), dry_run: isTry } }) : post("/mounts", { ...body(), dry_run: isTry }));

  async function test() {
    tryIt.disabled = true;
    fill(tried, h("p.note", "Asking the store …"));
    try {
      await settle();
      const told = await send(true);
      fill(tried, h("p.note.good", "The store answers", told.note ? `, but ${told.note}` : "", ". Nothing was changed."));
    } catch (error) {
      fill(tried, h("p.note.bad", error.message, error.hint ? ` ${error.hint}` : ""));
    } finally {
      tryIt.disabled = false;
    }
  }

  draw();
  showChanges();
  const first = JSON.stringify(mount && seen(mount));
  const leave = mount ? watch("mounts", (value, topic) => {
    if (!value || topic.error) return;
    const now = value[mount.path];
    gone = now ? "" : `${mount.path} is not mounted any more: somebody removed it meanwhile`;
    if (gone) fill(news, h("p.note.bad", gone));
    else if (JSON.stringify(seen(now)) !== first) fill(news, h("p.note.warn", "Somebody changed this mount meanwhile. What you change here is put on top of that; close and open the form to see it."));
    else fill(news);
  }) : () => {};
  const all = h("div", { oninput: edited }, news, kind?.element, mount ? null : h("div.pairs", path.element, uri.element), h("h3.part", `Options of ${mount ? "the" : "this"} store`), options, together, h("h3.part", "How it is used"), readonly.element, shared?.element, h("div.pairs", interval.element, mode.element), changes, h("div.below", tryIt, tried));
  try {
    return await form(mount ? `Change ${mount.path}` : "Mount a store", {
      intro: mount ? h("p.hint.mono", mount.uri) : null,
      fields: all,
      button: mount ? "Change it" : "Mount it",
      act: async () => {
        await settle();
        if (mount && Object.keys(body()).length === 2 && !Object.keys(changed()).length) throw new Error("nothing is changed yet");
        return send(false);
      },
    });
  } finally {
    clearTimeout(timer);
    leave();
  }
}

const seen = ({ options, secrets, readonly, ufs_mode, sync_interval_s, uri, id }) => [options, secrets, readonly, ufs_mode, sync_interval_s, uri, id];
