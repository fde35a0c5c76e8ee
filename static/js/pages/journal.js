// The group of masters: who leads, how far the others are, how fast the disk is; handing leadership over, and backups.
import { ask, post } from "../api.js";
import { confirm, field, form, toast } from "../dialog.js";
import { chip, facts, fill, h, icon, meter, say, told } from "../dom.js";
import { bytes, count, date, exact, percent, rate, seconds, size } from "../format.js";
import { growing } from "../growing.js";
import { watch } from "../live.js";
import { table } from "../table.js";

const FSYNC = "monofs_journal_fsync_seconds";
const SILENT_S = 3;

export function show(view) {
  const health = h("span", { role: "status" });
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const admin = told.viewer.admin;
  const tiles = {};
  const tile = (name, label) => {
    tiles[name] = { value: h("span.value", "–"), more: h("span.more") };
    return h("div.card.tile.live", h("span.label", label), tiles[name].value, tiles[name].more);
  };
  const put = (name, text, more = "", title = "") => { say(tiles[name].value, text, title); say(tiles[name].more, more); };

  const members = table([
    { name: "name", title: "Master", cell: (row) => h("span.mono", row.name), value: (row) => row.name },
    { name: "role", title: "Role", cell: (row) => chip(row.role, row.role === "leader" ? "good" : ""), value: (row) => row.role },
    { name: "state", title: "State", cell: (row) => stateOf(row), value: (row) => row.heard_s },
    { name: "match", title: "On its disk up to", right: true, cell: (row) => (row.match < 0 ? "–" : exact(row.match)), value: (row) => row.match },
    { name: "lag", title: "Behind", right: true, cell: (row) => (row.lag === null ? "–" : row.copied >= 0 ? `gets the state: ${percent(row.copied)}` : `${exact(row.lag)} ${row.lag === 1 ? "entry" : "entries"}`), value: (row) => row.lag },
    { name: "journal", title: "Journal", cell: (row) => h("span.mono", row.journal), value: (row) => row.journal },
    { name: "rpc", title: "Clients", cell: (row) => h("span.mono", row.rpc || "–"), value: (row) => row.rpc },
    ...(admin ? [{ name: "act", title: "", stuck: true, cell: (row) => h("span.acts", choices(row)) }] : []),
  ], { key: (row) => row.name, match: (row) => `${row.name} ${row.role}`, label: "Masters", empty: null });
  const group = h("div.live", members.element);
  const alone = h("div.card", { hidden: true }, h("h2", "This master is alone"),
    h("p", "What it acknowledged is on its own disk, and nowhere else. Three masters go on when one of them is lost: start each with ", h("code.keep", "--id"), " and ", h("code.keep", "--peers"), ". Until then, take backups."));

  const growth = admin ? h("button", { type: "button", hidden: true, onclick: takeIn }, icon("plus"), "Take in a master") : null;
  const writes = growing(["entries"], rate);
  const disk = growing(["mean of a batch"], seconds, { least: 0.001 });
  const checking = h("button", { type: "button", onclick: check }, "Check every invariant");
  const checked = h("div", { role: "status" });
  const figures = h("div");
  const running = h("div", { role: "status" });

  view.append(
    h("div.head", h("h1", "Journal"), health, h("div.push", growth)),
    trouble,
    h("div.grid.tiles", tile("leader", "Leader"), tile("term", "Term"), tile("applied", "Applied"), tile("lag", "Furthest behind"), tile("fsync", "A batch to its disk")),
    h("section", { "aria-label": "Masters" }, group, alone),
    h("div.grid.gap",
      h("section.card.live", h("h2", "Entries written"), writes.element),
      h("section.card.live", h("h2", "Time of a batch on this node's disk"), disk.element)),
    h("div.grid",
      h("section.card", h("h2", "Backup"),
        h("p", "A copy of the whole namespace as of one moment, taken while it is in use. ", h("code", "monofs admin restore"), " makes a cluster of it again."),
        h("p.soft", "A restore needs two more things: the cluster secret (", h("code", "cluster.secret"), "), without which the mounts' credentials cannot be read, and the stores themselves. Bytes that no store has yet are in no backup."),
        admin ? h("p", h("button.main", { type: "button", onclick: backUp }, icon("download"), "Take a backup")) : h("p.hint", "Taking one needs the right admin."),
        running),
      h("section.card.live", h("h2", "In figures"), figures),
      admin ? h("section.card", h("h2", "Check"), h("p", "Looks at every record of the namespace and names what contradicts another one, as ", h("code", "monofs admin fsck"), " does. Nothing is changed."), h("p", checking), checked) : null));

  function stateOf(row) {
    if (row.state === "self") return chip("leads", "good");
    if (row.heard_s < 0) return chip("not known here");
    if (row.heard_s > SILENT_S) return chip(`silent for ${seconds(row.heard_s)}`, "bad");
    return chip(row.voter ? "follows" : "learns", row.lag > 1000 ? "warn" : "good");
  }

  function choices(row) {
    const make = (text, act, kind = "") => h(`button${kind}`, { type: "button", "aria-label": `${text} ${row.name}`, onclick: () => act(row) }, text);
    if (row.role === "leader") return [];
    return [row.voter ? make("Make it lead", transfer) : make("Let it vote", promote), make("Take out", takeOut, ".danger")];
  }

  const sure = async (title, text, act, said, more) => { if (await confirm(title, text, act, more)) toast(said); };
  const named = (row) => encodeURIComponent(row.name);
  const transfer = (row) => sure(`Make ${row.name} lead?`, "The leader hands over once that master has everything; changes wait for about as long as one round between them. Nothing that was acknowledged is lost.", () => post(`/journal/transfer/${named(row)}`), `${row.name} was asked to lead`, { button: "Make it lead", danger: false });
  const promote = (row) => sure(`Let ${row.name} vote?`, "It counts for the majority from then on, so it must have caught up: until then this is refused.", () => post(`/journal/promote/${named(row)}`), `${row.name} votes`, { button: "Let it vote", danger: false });
  const takeOut = (row) => sure(`Take ${row.name} out of the group?`, "The others go on without it, and a majority of them is enough. It is refused where they could not commit. To come back it begins with an empty home.", () => ask("DELETE", `/journal/members/${named(row)}`), `${row.name} is taken out`, { button: "Take it out" });

  async function takeIn() {
    const name = field("Name", { placeholder: "m4", required: true, hint: "as its --id says" });
    const address = field("Address of its journal door", { placeholder: "host:19200", required: true, check: (text) => (!text || /^.+:\d+$/.test(text) ? "" : "write it as host:port") });
    const made = await form("Take in a master", {
      intro: h("p", "Start it first, on an empty home, with ", h("code.keep", "--id"), " and ", h("code.keep", "--peers"), " of all. It learns without a vote; let it vote once it has caught up."),
      fields: [name, address], button: "Take it in", act: () => post("/journal/members", { name: name.value, address: address.value }),
      blame: (error) => (/address|port/.test(error.message) ? address : null),
    });
    if (made) toast(`${name.value} learns`);
  }

  async function check() {
    checking.disabled = true;
    checking.setAttribute("aria-busy", "true");
    fill(checked);
    try {
      const told = await post("/fsck");
      const bad = Object.entries(told.checks).filter(([, found]) => found.length);
      fill(checked, bad.length ? bad.map(([name, found]) => h("div.note.bad", h("strong", name), h("ul.failures", found.map((each) => h("li", each))))) : h("p.note.good", `All ${exact(Object.keys(told.checks).length)} invariants hold for ${exact(told.inodes)} files and directories; it took ${seconds(told.seconds)}.`));
    } catch (error) {
      fill(checked, h("p.note.bad", error.message, error.hint ? ` ${error.hint}` : ""));
    }
    checking.disabled = false;
    checking.removeAttribute("aria-busy");
  }

  function backUp() {
    return form("Take a backup", {
      intro: h("p", "The file comes as a download. It holds the names of all files and the encrypted credentials of mounts: keep it as you keep those."),
      fields: h("p", "Keep with it a copy of the cluster secret, in another place: ", h("code", `${told.node.home}/cluster.secret`), " (or the file that security.cluster_secret_file names)."),
      button: "Download",
      act: async () => {
        const link = h("a", { href: "/api/v1/backup", download: "" });
        document.body.append(link);
        link.click();
        link.remove();
      },
    });
  }

  let last = null;
  let fsync = null;
  const left = [
    watch("journal", (value, topic) => {
      note(topic);
      if (!value) return;
      const leader = value.members.find((each) => each.id === value.leader);
      const isAlone = !value.members.length;
      group.hidden = isAlone;
      alone.hidden = !isAlone;
      if (growth) growth.hidden = isAlone;
      const rows = value.members.map((each) => ({ ...each, lag: each.match < 0 ? null : Math.max(0, value.last_index - each.match) }));
      members.show(rows);
      put("leader", isAlone ? "this master" : leader ? leader.name : "none", isAlone ? "alone" : leader ? leader.rpc : "an election is under way");
      const behind = rows.filter((each) => each.lag !== null && each.role !== "leader");
      const most = behind.reduce((worst, each) => (!worst || each.lag > worst.lag ? each : worst), null);
      put("lag", most ? exact(most.lag) : "–", most ? most.name : isAlone ? "there are no others" : "", most ? `${exact(most.lag)} entries` : "");
      const problems = [];
      if (topic.error) problems.push("no answer");
      if (!isAlone && !leader) problems.push("no leader");
      if (value.removed) problems.push("not in the group");
      const silent = rows.filter((each) => each.heard_s > SILENT_S);
      if (silent.length) problems.push(`${silent.map((each) => each.name).join(", ")} silent`);
      if (value.changing) problems.push("the group is being changed");
      fill(health, problems.length ? chip(problems.join(", "), topic.error || (!isAlone && !leader) ? "bad" : "warn") : chip(isAlone ? "works, alone" : `${rows.filter((each) => each.voter).length} voters, all heard`, "good"));
    }),
    watch("journal_figures", (value, topic) => {
      if (!value) return;
      put("term", exact(value.term), `up ${seconds(value.uptime_s)}`);
      put("applied", count(value.applied_index), value.last_index > value.applied_index ? `${exact(value.last_index - value.applied_index)} not yet` : "all of it", exact(value.applied_index));
      if (value.fsync_p99_s) put("fsync", seconds(value.fsync_p50_s), `99 % within ${seconds(value.fsync_p99_s)}`, "half of all batches since it began, estimated from a histogram");
      else put("fsync", "–", "nothing was written since it began");
      if (topic.error) return;
      if (last && topic.at > last.at) writes.put(topic.at, [Math.max(0, (value.last_index - last.index) / ((topic.at - last.at) / 1000))]);
      last = { at: topic.at, index: value.last_index };
      fill(figures, facts([["First index", exact(value.first_index)], ["Last index", exact(value.last_index)], ["Applied", exact(value.applied_index)], ["On disk", `${bytes(value.bytes)} in ${exact(value.segments)} ${value.segments === 1 ? "segment" : "segments"}`], ["Waiting to be written", `${exact(value.queue_entries ?? 0)} entries, ${bytes(value.queue_bytes ?? 0)}`], ["Level of entries", exact(value.level)], ["Incarnation", exact(value.incarnation)], ["Version", value.version]]));
    }),
    watch("measures", (value, topic) => {
      const timer = value?.[FSYNC];
      if (!timer || topic.error) return;
      const total = timer.values[""] ?? 0;
      const sum = total * (timer.quantiles[""]?.[2] ?? 0);
      if (fsync && topic.at > fsync.at) disk.put(topic.at, [total > fsync.total ? (sum - fsync.sum) / (total - fsync.total) : null]);
      fsync = { at: topic.at, total, sum };
    }),
    ...(admin ? [watch("sendings", (value) => { if (value) fill(running, Object.values(value).filter((each) => each.name.endsWith(".backup")).reverse().slice(0, 5).map(progress)); })] : []),
  ];

  function progress(each) {
    const share = each.total_bytes ? each.sent_bytes / each.total_bytes : 0;
    const kind = each.state === "sent" ? "good" : each.state === "sending" ? "" : "bad";
    return h("div.line", h("div", h("span.mono", each.name), " ", chip(each.state === "sending" ? percent(share) : each.state, kind)), meter(`${percent(share)} of ${each.name}`, [share, kind === "bad" ? "bad" : ""]),
      h("div.soft", size(each.sent_bytes), " of ", size(each.total_bytes), `, begun ${date(each.began_ms)} by ${each.who}`));
  }

  function note(topic) {
    if (topic.error) fill(trouble, h("p.note.bad", `The masters do not answer: ${topic.error.message}. What is shown is old.`));
    else if (trouble.childNodes.length) fill(trouble);
  }

  return () => { left.forEach((each) => each()); writes.stop(); disk.stop(); };
}
