// What can be done with a file or directory: one list, for the buttons of its page and the menu of its row.
import { ask, get, post } from "../api.js";
import { copyText } from "../clipboard.js";
import { attempt, field, form, toast } from "../dialog.js";
import { h, icon, told } from "../dom.js";
import { isPath, jobForm } from "../job_form.js";
import { go } from "../main.js";
import { checkDuration, durationHint, readDuration } from "../units.js";
import { checkCopies } from "../policy_form.js";
import { address, join, nameOf, parentOf, plain, shown } from "./names.js";

const MAY = told.viewer.write;
const NOT_FOUND = 3001;
const EXISTS = 3002;
const NOT_A_DIRECTORY = 3003;
const download = (path) => `/api/v1/files/download?${new URLSearchParams({ path })}`;
const jobLink = (number, text) => [`${text}: `, h("a", { href: `/jobs/${number}` }, `job ${number}`)];
const isDirectory = (entry) => entry.type === "directory";
const what = (entry) => `${isDirectory(entry) ? "directory" : "file"} ${plain(entry.name || "/")}`;

/** [{ label, icon, act, href, danger, isFirst }]; `looking`: the path whose page is shown, which one leaves when it goes. `isFirst`: what stands on the page itself, where there is room. */
export function actions(entry, looking, facts = {}) {
  const path = entry.path;
  const isRoot = path === "/";
  const isFile = !isDirectory(entry);
  const list = [];
  if (isFile) list.push({ label: "Download", icon: "download", href: download(path), name: entry.name, isFirst: true });
  if (MAY) {
    list.push({ label: "Load into the cache", icon: "load", act: () => job("load", entry, "It is being loaded"), isFirst: true });
    list.push({ label: "Free from the cache", icon: "free", act: () => job("free", entry, "It is being freed"), isFirst: true });
    if (!isRoot) list.push({ label: entry.pinned ? "Unpin" : "Pin", icon: "pin", act: () => pin(entry), isFirst: true });
    list.push({ label: "Time to live", icon: "clock", act: () => ttl(entry, facts) });
    if (told.viewer.admin) list.push({ label: "Replication", icon: "copies", act: () => replication(entry) });
    if (entry.persistence !== "cache-only") list.push({ label: "Look at the store again", icon: "refresh", act: () => job("sync", entry, "The store is looked at") });
  }
  list.push({ label: "Copy the path", icon: "copy", act: () => copyText(path, "The path is copied") });
  if (MAY && isFile) list.push({ label: "Copy to", icon: "copy", act: () => copyTo(entry) });
  if (MAY && !isRoot && !entry.is_mount) {
    list.push({ label: "Rename", icon: "edit", act: () => rename(entry, looking) });
    list.push({ label: "Delete", icon: "delete", act: () => remove(entry, looking), danger: true });
  }
  return list;
}

/** A button or link of an action. */
export function control(action, kind = "") {
  const inner = [action.icon ? icon(action.icon) : null, action.label];
  if (action.href) return h(`a.button${kind}`, { href: action.href, download: action.name }, inner);
  return h(`button${action.danger ? ".danger" : ""}${kind}`, { type: "button", onclick: action.act }, inner);
}

/** The list over the page; the action chosen closes it. */
export function menu(entry, looking, facts, list = actions(entry, looking, facts)) {
  const leave = () => { box.close(); box.remove(); };
  const box = h("dialog.choices", { "aria-label": `Actions for ${plain(entry.name || "/")}`, oncancel: leave, onclick: (event) => { if (event.target === box) leave(); } },
    h("div.head", h("h2", shown(entry.name || "/")), h("div.push", h("button.quiet", { type: "button", "aria-label": "Close", onclick: leave }, icon("close")))),
    list.map((each) => {
      const made = control(each);
      made.addEventListener("click", () => (each.href ? setTimeout(leave) : leave()), true);
      return made;
    }));
  document.body.append(box);
  box.showModal();
  box.querySelector(".choices > button, .choices > a")?.focus();
}

async function job(kind, entry, text) {
  const about = h("p", { title: plain(entry.path) }, `The ${what(entry)}${isDirectory(entry) ? " and everything below it" : ""}.`);
  const made = await jobForm({ kind, path: entry.path, about, isFile: !isDirectory(entry) });
  if (made) toast(jobLink(made.number, text));
}

const pin = (entry) => attempt(() => post("/files/pin", { path: entry.path, pinned: !entry.pinned }), entry.pinned ? "It may be evicted again" : "It stays in the cache once it is there");

function ttl(entry, facts) {
  const set = facts.ttl && facts.ttl.path === entry.path;
  const after = field("After", { value: "1d", hint: `${durationHint}, from now on`, required: true, check: checkDuration });
  const choice = field("What is done then", { options: [...(set ? [["", "nothing: take the time to live back"]] : []), ["free", "free it: cached copies are dropped"], ["delete_cache_metadata", "forget it: the cache and what is known of it, not the store"], ["delete", "delete it, in the store too"]], value: set ? "" : "free" });
  const sure = field("Delete in the store too, I know", { type: "checkbox", check: (on) => (on ? "" : "Tick that you know: files are deleted in the store.") });
  const follow = () => { sure.element.hidden = choice.value !== "delete"; after.element.hidden = choice.value === ""; };
  choice.input.addEventListener("input", follow);
  follow();
  return form(`Time to live of the ${what(entry)}`, {
    intro: isDirectory(entry) ? h("p.hint", "It covers everything below.") : null,
    fields: [choice, after, sure], button: "Set",
    act: async () => {
      await post("/files/ttl", choice.value ? { path: entry.path, duration_s: readDuration(after.value), action: choice.value } : { path: entry.path });
      toast(choice.value ? "The time to live is set" : "The time to live is taken back");
    },
  });
}

async function replication(entry) {
  const policies = await attempt(() => get("/policies"));
  if (!policies) return;
  const replicas = field("Copies", { value: policies[entry.path]?.replicas ?? "", placeholder: "as above it", hint: "of each cached block, on as many workers: for speed, they keep nothing safe", check: checkCopies });
  await form(`Replication of the ${what(entry)}`, {
    intro: h("p.hint", "It is the same as Copies in the policy of this path."), fields: replicas, button: "Set", blame: () => replicas,
    act: async () => {
      const { id, used_bytes, ...policy } = (await get("/policies"))[entry.path] ?? { path: entry.path }; // somebody may have changed it meanwhile
      const wanted = { ...policy, replicas: replicas.value ? Number(replicas.value) : null };
      if (id || wanted.replicas) await ask("PUT", "/policies", { body: wanted });
      toast(wanted.replicas ? `${wanted.replicas === 1 ? "One copy is" : `${wanted.replicas} copies are`} kept of what is cached of it` : "The replication is as above it");
    },
  });
}

function nameCheck(text) {
  const size = new TextEncoder().encode(text).length;
  if (!text) return ""; // it is needed, which the field says by itself
  if (text.includes("/") || text.includes("\0")) return "a name holds no /";
  if (text === "." || text === "..") return "this is no name";
  return size > 255 ? `a name has at most 255 bytes, this has ${size}` : "";
}

/** Fields of a new place: a name, and, if a field can hold it, a directory. Gives { fields, name, path() }. */
function place(entry, title) {
  const directory = parentOf(entry.path);
  const typed = !/[\r\n]/.test(directory); // a field holds no line breaks
  const name = field(title, { value: entry.name, required: true, check: nameCheck });
  const into = field("In the directory", { value: directory, check: isPath });
  const replace = field("Replace a file that has the name", { type: "checkbox" });
  return {
    name, replace, fields: [name, typed ? into : null, replace],
    path: () => join(typed ? `/${into.value.split("/").filter(Boolean).join("/")}` : directory, name.value),
    blame: (error) => (error.code === EXISTS ? name : error.code === NOT_FOUND || error.code === NOT_A_DIRECTORY ? into : null),
  };
}

function rename(entry, looking) {
  const to = place(entry, "New name");
  return form(`Rename the ${what(entry)}`, {
    fields: to.fields, button: "Rename", blame: to.blame,
    act: async () => {
      const target = to.path();
      const { job } = await post("/files/rename", { source: entry.path, target, replace: to.replace.value });
      toast(job ? jobLink(job, "It has its new name; the store is being changed") : "It has its new name");
      if (looking === entry.path) go(address(target), { replace: true });
    },
  });
}

function copyTo(entry) {
  const to = place(entry, "Name of the copy");
  return form(`Copy the ${what(entry)}`, {
    intro: h("p.hint", "Within one mount the store copies, and no bytes travel."), fields: to.fields, button: "Copy", blame: to.blame,
    act: async () => {
      const made = await post("/files/copy", { source: entry.path, target: to.path(), replace: to.replace.value });
      toast(["It is copied to ", h("a", { href: address(made.path) }, shown(made.path))]);
    },
  });
}

function remove(entry, looking) {
  const recursive = isDirectory(entry);
  const sure = field("Everything below it too, I know", { type: "checkbox", check: (on) => (on ? "" : "Tick that you know what lies below goes too.") });
  return form(`Delete the ${what(entry)}?`, {
    intro: h("p", recursive ? "The directory and everything below are deleted, in the store too. There is no way back." : "The file is deleted, in the store too. There is no way back."),
    fields: recursive ? sure : [], button: "Delete", danger: true,
    act: async () => {
      const { job } = await ask("DELETE", "/files", { query: { path: entry.path, recursive } });
      toast(job ? jobLink(job, "It is gone; the store is being emptied") : "It is deleted");
      if (looking === entry.path) go(address(parentOf(entry.path)), { replace: true });
    },
  });
}

export function newDirectory(parent) {
  const name = field("Name", { required: true, check: nameCheck });
  return form("New directory", {
    fields: name, button: "Make", blame: (error) => (error.code === EXISTS ? name : null),
    act: async () => {
      await post("/files/directory", { path: join(parent, name.value) });
      toast("The directory is made");
    },
  });
}
