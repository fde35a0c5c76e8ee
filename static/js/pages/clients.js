// Who uses the cluster: connections to the leading master, tokens that let programs and people in, and the sessions of this console.
import { ask, post } from "../api.js";
import { copyText } from "../clipboard.js";
import { confirm, field, form, toast } from "../dialog.js";
import { chip, empty, fill, h, icon, say, told } from "../dom.js";
import { before, date, exact, seconds, since as ago } from "../format.js";
import { nowMs, watch } from "../live.js";
import { table } from "../table.js";
import { checkDuration, durationHint, readDuration } from "../units.js";

const rights = (text) => text.split(",").filter(Boolean).map((each) => [chip(each, each === "admin" ? "warn" : ""), " "]);
const since = (ms) => h("time", { dateTime: new Date(ms).toISOString(), title: date(ms) }, ago(ms, nowMs()));
const ends = (s) => h("time", { dateTime: new Date(s * 1000).toISOString(), title: date(s * 1000) }, before(s * 1000, nowMs()));
const called = (row) => (row.s3 ? `S3 key ${row.shown} of ${row.name}` : `token of ${row.name}`);

export function show(view) {
  view.append(h("div.head", h("h1", "Clients")));
  if (!told.viewer.admin) {
    view.append(empty("Who else is here is for administrators", h("p", `You are ${told.viewer.name}. Sign in with a token that has the right admin to see the others.`)));
    return () => {};
  }
  const trouble = h("div", { role: "status", "aria-live": "polite" });
  const summary = h("span.soft");
  const connections = table([
    { name: "name", title: "Who", cell: (row) => row.name || h("span.soft", "shaking hands"), value: (row) => row.name },
    { name: "peer", title: "From", cell: (row) => h("span.mono", row.peer), value: (row) => row.peer },
    { name: "credential", title: "By", cell: (row) => row.credential, value: (row) => row.credential },
    { name: "rights", title: "May", cell: (row) => rights(row.rights), value: (row) => row.rights },
    { name: "since", title: "Since", cell: (row) => since(row.since_ns / 1e6), value: (row) => row.since_ns },
    { name: "pending", title: "Waiting requests", right: true, cell: (row) => exact(row.pending), value: (row) => row.pending },
    { name: "release", title: "Release", cell: (row) => row.release || "–", value: (row) => row.release },
  ], { key: (row) => `${row.peer} ${row.since_ns}`, sort: ["since", true], label: "Connections", match: (row) => `${row.name} ${row.peer} ${row.credential} ${row.rights} ${row.release}`, empty: empty("Nobody is connected", h("p", "Programs appear here while they hold a connection to the master that leads.")) });
  const sessions = table([
    { name: "name", title: "Who", cell: (row) => [row.name, row.key === told.viewer.key ? [" ", chip("you", "good")] : null], value: (row) => row.name },
    { name: "peer", title: "From", cell: (row) => h("span.mono", row.peer || "–"), value: (row) => row.peer },
    { name: "credential", title: "By", cell: (row) => row.credential, value: (row) => row.credential },
    { name: "rights", title: "May", cell: (row) => rights(row.rights), value: (row) => row.rights },
    { name: "began", title: "Since", cell: (row) => since(row.began_ms), value: (row) => row.began_ms },
    { name: "watching", title: "Open pages", right: true, cell: (row) => exact(row.watching), value: (row) => row.watching },
    { name: "idle", title: "Last seen", right: true, cell: (row) => (row.watching || row.idle_s < 2 ? "now" : `${seconds(row.idle_s)} ago`), value: (row) => row.idle_s },
    { name: "expires", title: "Token ends", cell: (row) => (row.expires_s ? ends(row.expires_s) : row.credential === "none" ? "–" : "never"), value: (row) => row.expires_s },
    { name: "act", title: "", stuck: true, cell: (row) => (row.key === told.viewer.key ? "" : h("button.danger", { type: "button", onclick: () => end(row) }, "End")) },
  ], { key: (row) => row.key, sort: ["began", true], label: "Sessions", match: (row) => `${row.name} ${row.peer} ${row.credential}`, empty: empty("Nobody has signed in") });

  const tokens = table([
    { name: "name", title: "Name", cell: (row) => [row.name, row.s3 ? [" ", chip("S3 key", "", "monofs token s3 issues them")] : null], value: (row) => row.name },
    { name: "rights", title: "May", cell: (row) => [rights(row.rights), row.prefix ? h("span.soft", "below ", h("span.mono", row.prefix)) : null], value: (row) => row.rights },
    { name: "shown", title: "Begins with", cell: (row) => h("span.mono", row.shown), value: (row) => row.shown },
    { name: "issued", title: "Issued", cell: (row) => since(row.issued_ns / 1e6), value: (row) => row.issued_ns },
    { name: "issuer", title: "By", cell: (row) => row.issuer, value: (row) => row.issuer },
    { name: "expires", title: "Ends", cell: (row) => (row.expired ? chip("over", "warn") : row.expires_s ? ends(row.expires_s) : "never"), value: (row) => row.expires_s || Infinity },
    { name: "act", title: "", stuck: true, cell: (row) => h("button.danger", { type: "button", "aria-label": `Remove the ${called(row)}`, onclick: () => removeToken(row) }, "Remove") },
  ], { key: (row) => row.number, sort: ["name", false], label: "Tokens", match: (row) => `${row.name} ${row.rights} ${row.shown} ${row.issuer} ${row.prefix}`, empty: empty("No tokens yet", h("p", "A token lets a program or a person in from another machine, with a name, rights and an end."), h("p", h("button.main", { type: "button", onclick: () => issue() }, "Issue one"))) });

  async function end(row) {
    if (await confirm(`End the session of ${row.name}?`, `Its pages (${row.watching} open) go to the sign-in page. A token stays valid: to take that away too, remove it.`, () => ask("DELETE", `/sessions/${row.key}`), { button: "End it" })) toast("The session is over");
  }

  async function removeToken(row) {
    if (await confirm(`Remove the ${called(row)}?`, row.s3 ? "Requests that are signed with it are refused from then on." : "It lets nobody in any more, and what came in by it is cut: programs, and sessions of consoles within about 20 s.", () => ask("DELETE", `/tokens/${row.number}`), { button: "Remove it" })) toast(`The ${called(row)} is removed`);
  }

  async function issue() {
    const name = field("Name", { required: true, placeholder: "ada", hint: "of whom it lets in: it stands in the audit log" });
    const may = field("May", { options: [["read", "look and read"], ["read,write", "read and write"], ["read,write,admin", "read, write and administer"]] });
    const life = lifeField();
    const made = await form("Issue a token", {
      fields: [name, may, life], button: "Issue", blame: () => name,
      act: () => post("/tokens", { name: name.value, rights: may.value, expires_s: lifeOf(life) }),
    });
    if (made) await once(`The token of ${made.info.name}`, [["token", made.token]]);
  }

  async function issueKey() {
    const name = field("User", { required: true, placeholder: "reports", hint: "in whose name S3 requests act: it stands in the audit log" });
    const may = field("May", { options: [["read", "read"], ["write", "read and write"]] });
    const prefix = field("Only below", { placeholder: "the whole tree", hint: "a path, such as /lake/reports", check: (text) => (text && !text.startsWith("/") ? "a path begins with /" : "") });
    const life = lifeField();
    const made = await form("Issue an S3 key", {
      fields: [name, may, prefix, life], button: "Issue", blame: (error) => (/path|prefix|\//.test(error.message) ? prefix : name),
      act: () => post("/s3-keys", { name: name.value, read_only: may.value === "read", prefix: prefix.value, expires_s: lifeOf(life) }),
    });
    if (made) await once(`The S3 key of ${made.info.name}`, [["access key", made.info.shown], ["secret", made.token]]);
  }

  const lifeField = () => field("Ends after", { value: "30d", hint: `${durationHint}; never`, required: true, check: (text) => (text.trim() === "never" ? "" : checkDuration(text)) });
  const lifeOf = (life) => (life.value.trim() === "never" ? null : readDuration(life.value));

  /** Show what is shown this once. */
  function once(title, told) {
    const lines = told.map(([what, value]) => {
      const text = h("input.mono", { value, readOnly: true, "aria-label": `The ${what}`, onfocus: () => text.select() });
      return h("div.beside", text, h("button", { type: "button", "aria-label": `Copy the ${what}`, onclick: (event) => { event.target.textContent = "Copied"; copyText(value, `The ${what} is copied`); } }, "Copy"));
    });
    return form(title, { intro: h("p", "It is shown this once: copy it now, into a file only its owner can read."), fields: lines, button: "I have it", act: () => true });
  }

  view.append(trouble,
    h("section.low", { "aria-label": "Connections to the master that leads" }, h("div.tools", h("h2.inline", "Connections to the master that leads"), connections.search, connections.tally, summary), h("div.live", connections.element)),
    h("section.gap.low", { "aria-label": "Tokens of the cluster" }, h("div.tools", h("h2.inline", "Tokens and S3 keys"), tokens.search, tokens.tally, h("div.push", h("button", { type: "button", onclick: issueKey }, icon("plus"), "Issue an S3 key"), h("button.main", { type: "button", onclick: issue }, icon("plus"), "Issue a token"))), h("div.live", tokens.element)),
    h("section.gap.low", { "aria-label": "Sessions of this console" }, h("div.tools", h("h2.inline", "Sessions of this node's console"), sessions.search, sessions.tally), h("div.live", sessions.element)));

  const errors = new Map();
  function note(topic) {
    errors.set(topic.name, topic.error?.message);
    const said = [...errors.values()].find(Boolean);
    if (said) fill(trouble, h("p.note.bad", `The master does not answer: ${said}. What is shown is old.`));
    else if (trouble.childNodes.length) fill(trouble);
  }

  const left = [
    watch("connections", (value, topic) => {
      note(topic);
      if (!value) return;
      connections.show(value.connections);
      say(summary, `${value.total > value.connections.length ? `the first ${exact(value.connections.length)} of ${exact(value.total)}; ` : ""}changes of ${exact(value.clients)} ${value.clients === 1 ? "program" : "programs"} are remembered for retries`);
    }),
    watch("tokens", (value, topic) => { note(topic); if (value && !topic.error) tokens.show(Object.values(value)); }),
    watch("sessions", (value) => { if (value) sessions.show(Object.values(value)); }),
  ];
  return () => left.forEach((each) => each());
}
