// The books of a feed: what the server accepted, and what became of it; and how late events are.

import { h, say } from "./dom.js";
import { count, duration, latency, percent, rate } from "./format.js";

const LATENCY_MS = 60_000;
const OUTCOMES = ["published", "dropped", "skipped", "dead", "in_flight"];
const ROWS = {
  offered: "frames accepted", published: "published as events", dropped: "dropped (made room for newer)",
  skipped: "skipped (too old)", dead: "dead letters", in_flight: "in flight", oldest: "oldest in flight",
  rates: "in / out, a second", p50: "ingest to event, p50", p95: "ingest to event, p95",
  owner: "worker", policy: "policy", source: "source", model: "model",
};

export function figuresPanel() {
  const cells = Object.fromEntries(Object.keys(ROWS).map((key) => [key, h("dd")]));
  const rows = Object.entries(ROWS).map(([key, words]) => h("div", { "data-figure": key }, h("dt", {}, words), cells[key]));
  const element = h("section", { class: "panel figures-panel", "aria-label": "Books" },
    h("h2", {}, "Books"), h("dl", { class: "rows" }, rows));

  function update({ figures, series }) {
    if (!figures) return;
    say(cells.offered, count(figures.offered));
    for (const key of OUTCOMES) {
      const share = figures.offered ? ` · ${percent(figures[key] / figures.offered)}` : "";
      say(cells[key], figures[key] ? count(figures[key]) + share : "0");
    }
    say(cells.oldest, figures.in_flight ? duration(figures.oldest_age_s) : "–");
    say(cells.rates, `${rate(figures.offered_per_s)} / ${rate(figures.published_per_s)}`);
    const late = series.latencies(LATENCY_MS);
    say(cells.p50, latency(late?.p50));
    say(cells.p95, latency(late?.p95));
    say(cells.owner, figures.owner ?? "none");
    say(cells.policy, `${figures.settings.policy}, depth ${figures.settings.depth}`);
    say(cells.source, figures.settings.source || "–");
    const model = series.newest?.classifier;
    say(cells.model, model ? `${model.name} ${model.version} (${model.digest.slice(0, 8)})` : "–");
    cells.model.title = model?.digest ?? "";
  }
  return { element, update };
}
