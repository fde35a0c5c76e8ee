// Requests to /api/v1. Errors are the API's records: { error, code, message, hint, retry }.
import { told } from "./dom.js";

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.message);
    Object.assign(this, problem, { status });
  }
}

export async function ask(method, path, { query = {}, body, signal } = {}) {
  const address = new URL(`/api/v1${path}`, location.origin);
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== null) address.searchParams.set(name, value);
  const headers = {};
  if (method !== "GET") headers["x-csrf-token"] = told.csrf;
  let sent = body;
  if (body !== undefined && !(body instanceof Blob)) {
    headers["content-type"] = "application/json";
    sent = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(address, { method, headers, body: sent, signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ error: "Unreachable", code: 2007, message: "this node does not answer", hint: "is it running?", retry: true }, 0);
  }
  if (answer.status === 401) {
    location.assign("/sign-in");
    return new Promise(() => {});
  }
  const value = await answer.json();
  if (!answer.ok) throw new Refused(value, answer.status);
  return value;
}

export const get = (path, query, signal) => ask("GET", path, { query, signal });
export const post = (path, body, query) => ask("POST", path, { body, query });
