// The HTTP API, as far as the page uses it (see api/openapi.json). Errors tell what to do about them.

import { eventOf } from "./records.js";

export class ApiError extends Error {
  /** kind: offline (no answer), refused (a token is needed), missing, busy, away (no Redis), failed */
  constructor(kind, message, retryAfter = 0) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

const KINDS = { 401: "refused", 403: "refused", 404: "missing", 429: "busy", 503: "away" };

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("offline", "The server of this page does not answer.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ApiError(
    KINDS[response.status] || "failed",
    body.error || `The server answered ${response.status}.`,
    Number(response.headers.get("Retry-After")) || 0,
  );
}

const json = async (path, options) => (await request(path, options)).json();
const at = (feed, rest) => `api/feeds/${encodeURIComponent(feed)}/${rest}`;

export const feeds = () => json("api/feeds");
export const workers = async () => (await json("api/workers")).workers;
export const session = () => json("api/session");

export const signIn = (token) => request("api/session", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ token }),
});
export const signOut = () => request("api/session", { method: "DELETE" });

/** Events before the id `before` (or the newest), newest first: {events, next}; next: there are more. */
export async function history(feed, before, limit) {
  const query = new URLSearchParams({ order: "desc", limit });
  if (before) query.set("to", before);
  const { events, next } = await json(at(feed, `events?${query}`));
  return { events: events.map(eventOf), next };
}

/** Counts and shares of the expressions between two times (ms since 1970), of all faces and per track. */
export function summary(feed, from, to, signal) {
  const query = new URLSearchParams({ from: Math.floor(from), to: Math.ceil(to) });
  return json(at(feed, `summary?${query}`), { signal });
}

/** The newest picture if it is another than `after`: {id, bitmap}, or null. */
export async function preview(feed, after) {
  const query = after ? `?${new URLSearchParams({ after })}` : "";
  const response = await request(at(feed, `preview${query}`));
  if (response.status === 204) return null;
  const id = response.headers.get("X-Frame-Id");
  return { id, bitmap: await createImageBitmap(await response.blob()) };
}

/** Address of the one live stream for several feeds; since: the cursor of its last message, or "". */
export function liveAddress(names, since) {
  const query = new URLSearchParams(names.map((name) => ["feed", name]));
  if (since) query.set("since", since);
  return `api/events/live?${query}`;
}
