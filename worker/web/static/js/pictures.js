// Previews, fetched for the feeds that are on the screen when the live stream tells of a new one.

import { preview } from "./api.js";

const AT_ONCE = 2; // of the browser's six connections to a host
const FAILED_MS = 2000;

export class Pictures {
  #states = [];
  #pause = 0;
  #due = new Map(); // feed -> when it may be asked for again
  #running = 0;

  constructor() {
    setInterval(() => this.#next(), 50);
  }

  /** Fetch for these feeds (FeedStates) from now on, each at most every `pause` ms. */
  follow(states, pause) {
    this.#states = states;
    this.#pause = pause;
  }

  #next() {
    const now = performance.now();
    const dueAt = (state) => this.#due.get(state.name) ?? 0;
    const due = this.#states
      .filter((state) => state.wantsPicture && dueAt(state) <= now)
      .sort((a, b) => dueAt(a) - dueAt(b));
    for (const state of due.slice(0, AT_ONCE - this.#running)) this.#fetch(state);
  }

  async #fetch(state) {
    this.#running += 1;
    this.#due.set(state.name, Infinity);
    const { offered } = state;
    let wait = this.#pause;
    try {
      const found = await preview(state.name, state.fetched);
      if (found) state.addPicture(found);
      state.fetched = found?.id ?? offered;
    } catch (error) {
      state.fetched = offered; // gone already, or the server is away: the next one will be told of
      wait = Math.max(FAILED_MS, (error.retryAfter ?? 0) * 1000);
    } finally {
      this.#running -= 1;
      this.#due.set(state.name, performance.now() + wait);
    }
  }
}
