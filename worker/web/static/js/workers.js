// The workers' health: who lives, how busy each one is, and which feeds it holds.

import { h, say } from "./dom.js";
import { percent, plural } from "./format.js";

export function workersPanel() {
  const list = h("ul", { class: "workers" });
  const title = h("h2", {}, "Workers");
  const element = h("section", { class: "workers-panel", "aria-label": "Workers" }, title, list);

  function update(app) {
    element.hidden = !app.workers;
    if (!app.workers) return;
    const none = app.running ? "No worker holds these feeds" : "No worker is running";
    say(title, app.workers.length ? plural(app.workers.length, "worker") : none);
    list.replaceChildren(...(app.workers.length || app.running ? app.workers.map(row) : [h("li", { class: "none" },
      "Frames wait, or are dropped, until one is started: ", h("code", {}, "mien worker"))]));
  }
  return { element, update };
}

function row(worker) {
  const name = worker.name || `${worker.host}:${worker.pid}`;
  const feeds = Object.keys(worker.feeds).sort();
  const bar = h("span", { class: "bar" });
  bar.style.setProperty("--share", worker.busy);
  const busy = percent(worker.busy);
  return h("li", { "data-level": worker.busy > 0.9 ? "warn" : "live" },
    h("span", { class: "worker-name" }, name),
    h("span", { class: "meter", role: "meter", "aria-label": `${name} busy`, "aria-valuemin": 0,
      "aria-valuemax": 100, "aria-valuenow": Math.round(worker.busy * 100) }, bar),
    h("span", { class: "worker-busy" }, `${busy} busy`),
    h("span", { class: "worker-feeds", title: feeds.join(", ") },
      feeds.length ? `${plural(feeds.length, "feed")}: ${feeds.join(", ")}` : "no feed"));
}
