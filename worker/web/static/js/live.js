// One stream of server-sent events for all the feeds that are on the screen: browsers open no more
// than six connections to a host, over all their tabs.

const SILENT_MS = 15_000; // the server beats every few seconds: longer means a dead connection
const SETTLE_MS = 250; // while somebody scrolls, the set of feeds changes again and again
const STALE_MS = 60_000; // a page that was hidden for longer does not catch up, it begins anew
const MOST_FEEDS = 64; // of one stream, by the API
const [FIRST_RETRY_MS, LAST_RETRY_MS] = [500, 15_000];
const KINDS = ["event", "gap", "rewind", "preview", "beat", "away", "back"];

export class Live {
  #source = null;
  #feeds = "";
  #timer = 0;
  #retry = FIRST_RETRY_MS;
  #heard = 0;
  #cursor = "";
  #closedAt = 0;

  /**
   * addressOf(feeds, since): the stream's address; onMessage(kind, data);
   * onState("open" | "lost" | "stale"): stale: what came in the meantime will not be told.
   */
  constructor(addressOf, onMessage, onState) {
    this.addressOf = addressOf;
    this.onMessage = onMessage;
    this.onState = onState;
    setInterval(() => this.#checkHeard(), 2000);
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#later(10_000);
      else if (!this.#source) this.#later(0);
      else clearTimeout(this.#timer);
    });
  }

  /** Follow these feeds from now on, and no others. */
  watch(feeds) {
    const wanted = [...feeds].sort().slice(0, MOST_FEEDS).join("\n");
    if (wanted === this.#feeds) return;
    this.#feeds = wanted;
    this.#later(SETTLE_MS);
  }

  /** Open the stream anew: a token was given, or a button pressed. */
  again() {
    this.#retry = FIRST_RETRY_MS;
    this.#later(0);
  }

  #later(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), ms);
  }

  #open() {
    if (this.#source) this.#closedAt = performance.now();
    this.#source?.close();
    this.#source = null;
    // A page that nobody sees gives its connection back.
    if (!this.#feeds || document.hidden) return;
    if (this.#cursor && performance.now() - this.#closedAt > STALE_MS) {
      this.#cursor = "";
      this.onState("stale");
    }
    const source = new EventSource(this.addressOf(this.#feeds.split("\n"), this.#cursor));
    this.#source = source;
    this.#heard = performance.now();
    source.onopen = () => {
      this.#heard = performance.now();
      this.#retry = FIRST_RETRY_MS;
      this.onState("open");
    };
    source.onerror = () => this.#lost(source);
    for (const kind of KINDS) {
      source.addEventListener(kind, (message) => {
        this.#heard = performance.now();
        if (message.lastEventId) this.#cursor = message.lastEventId;
        this.onMessage(kind, message.data ? JSON.parse(message.data) : {});
      });
    }
  }

  #lost(source) {
    if (source !== this.#source) return;
    this.onState("lost");
    // The browser itself tries again, with Last-Event-ID, unless it was refused.
    if (source.readyState === EventSource.CLOSED) {
      this.#later(this.#retry);
      this.#retry = Math.min(LAST_RETRY_MS, this.#retry * 2);
    }
  }

  #checkHeard() {
    if (this.#source && performance.now() - this.#heard > SILENT_MS) {
      this.onState("lost");
      this.#later(0);
    }
  }
}
