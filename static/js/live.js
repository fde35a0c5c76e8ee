// The one WebSocket of this page: topics with their whole value first, then changes (monofs/web/hub.py). It reconnects by itself, and says so;
// what it shows meanwhile is marked as old, and so is a topic the cluster does not answer for.
import { told } from "./dom.js";

const FIRST_MS = 300;
const LONGEST_MS = 8000;
const view = document.getElementById("view");
const SILENT_MS = 6000; // the topic `now` comes every second: a server that says nothing for so long hangs, or is cut off
const topics = new Map(); // name -> { value, at, error, skipped, watchers: Set }
const states = new Set();
let socket = null;
let pause = FIRST_MS;
let heard = 0;
let missing = new Set(); // topics of which nothing came since the connection did
let skew = told.now_ms - Date.now();
export let state = "connecting"; // connecting | live | lost

/** The server's clock, in ms: a viewer's own may be an hour off. */
export const nowMs = () => Date.now() + skew;

/** Call `show(value, topic)` with every value of a topic until the returned function is called. */
export function watch(name, show) {
  let topic = topics.get(name);
  if (!topic) {
    topic = { name, value: null, at: 0, error: null, skipped: 0, watchers: new Set() };
    topics.set(name, topic);
    send({ watch: name });
  } else if (topic.value || topic.error) {
    show(topic.value, topic);
  }
  topic.watchers.add(show);
  tellBusy();
  return () => {
    topic.watchers.delete(show);
    if (!topic.watchers.size && topics.get(name) === topic) {
      topics.delete(name);
      came(name);
      send({ leave: name });
    }
  };
}

/** The page says that it is not complete until every topic on it has been told, or refused. */
const tellBusy = () => view.setAttribute("aria-busy", [...topics.values()].some((topic) => !topic.value && !topic.error));

/** Call `show(state, waitMs)` whenever the connection comes or goes. */
export function onState(show) {
  states.add(show);
  show(state, 0);
  return () => states.delete(show);
}

// What was shown before the connection was lost is old until all of it came again.
function came(name) {
  if (missing.delete(name) && !missing.size && socket) become("live");
}

function send(order) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(order));
}

function become(next, waitMs = 0) {
  state = next;
  document.body.classList.toggle("stale", next !== "live");
  for (const show of states) show(next, waitMs);
}

function lost() {
  socket = null;
  become("lost", pause);
  setTimeout(lookThenConnect, pause * (0.75 + Math.random() / 2));
  pause = Math.min(pause * 2, LONGEST_MS);
}

setInterval(() => {
  if (!socket || performance.now() - heard < SILENT_MS) return;
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
  lost();
}, 1000);

export function connect() {
  heard = performance.now();
  if (!topics.has("now")) watch("now", () => {});
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.onopen = () => {
    pause = FIRST_MS;
    missing = new Set(state === "lost" ? topics.keys() : []);
    if (!missing.size) become("live");
    for (const name of topics.keys()) send({ watch: name });
  };
  socket.onmessage = (event) => { heard = performance.now(); take(JSON.parse(event.data)); };
  socket.onclose = lost;
}

// After a restart the session is gone, and the release may be another one: ask before the socket does.
async function lookThenConnect() {
  try {
    const answer = await fetch("/api/v1/session", { credentials: "same-origin", signal: AbortSignal.timeout(SILENT_MS) });
    if (answer.status === 401) return location.assign("/sign-in");
    const session = await answer.json();
    if (session.csrf !== told.csrf || session.release !== told.release) return location.reload();
  } catch {
    /* it does not answer yet: the socket tells when it does */
  }
  return connect();
}

function take(message) {
  const topic = topics.get(message.topic);
  if (!topic) return;
  if (message.value !== undefined) topic.value = message.value;
  else if (message.change && topic.value) topic.value = changed(topic.value, message.change);
  topic.error = message.error ?? null;
  topic.skipped = message.skipped ?? 0;
  if (message.at) {
    topic.at = message.at;
    if (!message.error && !message.skipped) skew = message.at - Date.now();
  }
  for (const show of topic.watchers) show(topic.value, topic);
  tellBusy();
  came(message.topic);
}

/** A value after a change; what did not change stays the same object, so that who draws it can tell. */
export function changed(value, change) {
  const next = { ...value, ...(change["="] ?? {}) };
  for (const key of change["-"] ?? []) delete next[key];
  for (const [key, inner] of Object.entries(change["~"] ?? {})) next[key] = changed(value[key], inner);
  return next;
}
