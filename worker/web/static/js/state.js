// What the page knows of each feed: its figures, its events, its newest picture, and how it stands.

import { age, duration, plural } from "./format.js";
import { Series } from "./series.js";

const PICTURES_OFF_S = 4; // events but no picture for so long: there are none
const FRESH_S = 5;

/** The server's clock, as far as it is known (ms since 1970); it goes on while the server is away. */
export const serverClock = {
  ahead: 0,
  set(ms) {
    this.ahead = ms - Date.now();
  },
  now() {
    return Date.now() + this.ahead;
  },
};

export class FeedState {
  static WALL_EVENTS = 3000; // about a minute of a fast feed

  constructor(name) {
    this.name = name;
    this.figures = null; // as api/feeds tells them
    this.complaint = "";
    this.series = new Series(FeedState.WALL_EVENTS);
    this.picture = null; // {event, bitmap}: never a picture without its own event
    this.changed = true; // something to draw
    this.pending = null; // a picture whose event has not come yet
    this.fetched = ""; // frame id of the newest picture that was fetched
    this.primed = false; // whether its last events were asked for
    this.offered = ""; // frame id of the newest picture that the server told of
    this.offeredAt = -Infinity;
    this.firstEventAt = this.lastEventAt = -Infinity;
  }

  /** The feed is not followed any more: what comes in the meantime would be missing. */
  forget() {
    this.series.clear();
    this.primed = false;
    this.changed = true;
  }

  takeFigures(figures, complaint) {
    this.figures = figures;
    this.complaint = complaint;
    this.toldAt = serverClock.now() - (figures.last_event_age_s ?? Infinity) * 1000;
  }

  addEvent(event) {
    const now = performance.now();
    if (!this.series.newest) this.firstEventAt = now;
    this.lastEventAt = now;
    this.changed = this.series.add(event) || this.changed;
    if (this.pending?.id === event.id) {
      const { pending } = this;
      this.pending = null;
      this.addPicture(pending);
    }
  }

  addPicture({ id, bitmap }) {
    const event = this.series.byId.get(id);
    if (!event) {
      this.pending?.bitmap.close();
      this.pending = { id, bitmap, since: performance.now() };
      return;
    }
    this.picture?.bitmap.close();
    this.picture = { event, bitmap };
    this.changed = true;
  }

  offer(frameId) {
    this.offered = frameId;
    this.offeredAt = performance.now();
  }

  /** Whether a newer picture is there to be fetched; not while one still waits for its event. */
  get wantsPicture() {
    if (this.pending && performance.now() - this.pending.since < FRESH_S * 1000) return false;
    return Boolean(this.offered) && this.offered !== this.fetched;
  }

  /** Whether events have come without pictures; nothing is said of a feed that is silent. */
  get withoutPictures() {
    const since = Math.max(this.offeredAt, this.firstEventAt);
    return this.lastEventAt - since > PICTURES_OFF_S * 1000;
  }

  /** {event, bitmap or null}: the newest picture with its event, or the newest event alone. */
  get shown() {
    const newest = this.series.newest;
    if (this.picture && (!newest || newest.ms - this.picture.event.ms < FRESH_S * 1000)) {
      return this.picture;
    }
    return { event: newest, bitmap: null };
  }

  /** Seconds since the newest event was published; null if there never was one. */
  get silence() {
    const newest = this.series.newest;
    const heard = newest ? (serverClock.now() - newest.ms) / 1000 - (newest.latency || 0) : Infinity;
    const told = this.figures ? (serverClock.now() - this.toldAt) / 1000 : Infinity;
    const least = Math.min(heard, told);
    return least === Infinity ? null : Math.max(0, least);
  }

  /** How the feed stands: {level: "live" | "idle" | "warn" | "bad" | "off", words}. */
  condition(problem, running) {
    const { figures, silence } = this;
    const since = silence === null ? "" : `, last event ${age(silence)} ago`;
    if (problem) return { level: "off", words: `not connected${since}` };
    if (!figures) return { level: "off", words: "…" };
    if (this.complaint) return { level: "warn", words: this.complaint };
    const waits = figures.in_flight ? plural(figures.in_flight, "frame") : "";
    if (!figures.owner && waits) {
      const who = running === 0 ? "no worker is running" : "no worker takes this feed";
      return { level: "bad", words: `${who}: ${waits} waiting${since}` };
    }
    if (silence !== null && silence < FRESH_S) return { level: "live", words: "live" };
    if (waits && figures.oldest_age_s > FRESH_S) {
      const oldest = duration(figures.oldest_age_s);
      return { level: "bad", words: `stalled: a frame has waited ${oldest}${since}` };
    }
    if (silence === null) return { level: "idle", words: "no frame yet" };
    const ended = figures.settings?.policy === "lossless";
    return ended
      ? { level: "idle", words: `no new frames for ${age(silence)}` }
      : { level: "warn", words: `silent for ${age(silence)}` };
  }
}
