// The page: what it knows, which view is open, and what it says when something is wrong.

import * as api from "./api.js";
import { $, h, say } from "./dom.js";
import { feedView } from "./feed.js";
import { plural, rate } from "./format.js";
import { handleKeys } from "./keys.js";
import { Live } from "./live.js";
import { onSchemeChange, ordered, variableOf } from "./palette.js";
import { Pictures } from "./pictures.js";
import { eventOf, millisecondsOf } from "./records.js";
import { setUpSession } from "./session.js";
import { FeedState, serverClock } from "./state.js";
import { wallView } from "./wall.js";

const LOOK_MS = 2000;
const LINGER_MS = 30_000; // a feed that was scrolled away is followed for a while
const PRIMED_EVENTS = 60;

const app = {
  feeds: new Map(), // name -> FeedState
  workers: null, // those that hold a feed which is shown here
  running: null, // how many there are in all
  looked: false,
  problem: null, // an ApiError, or null while all is well
  streamLost: false,
  filter: "",
  view: null,
  labels: new Set(),
  seenAt: new Map(), // name of each feed that is followed live -> when it was last on the screen
  follow() {
    const { names, pause } = app.view.follow();
    const known = (name) => app.feeds.get(name)?.figures;
    const now = performance.now();
    for (const name of names) app.seenAt.set(name, now);
    for (const [name, at] of app.seenAt) {
      if (now - at < LINGER_MS && known(name)) continue;
      app.seenAt.delete(name);
      app.feeds.get(name)?.forget();
    }
    live.watch(app.seenAt.keys());
    pictures.follow(names.filter(known).map((name) => app.feeds.get(name)), pause);
  },
};

const session = setUpSession(() => {
  look();
  live.again();
});
const pictures = new Pictures();
const live = new Live(api.liveAddress, onMessage, (state) => {
  app.streamLost = state === "lost";
  if (state === "stale") {
    for (const one of app.feeds.values()) one.forget();
    app.view.restart();
  }
  if (state === "open") for (const name of app.seenAt.keys()) prime(app.feeds.get(name));
  showProblem();
});

/** A feed that may be silent now still shows what it last said. */
async function prime(state) {
  if (!state || state.primed) return;
  state.primed = true;
  const found = await api.history(state.name, null, PRIMED_EVENTS).catch(() => null);
  if (!found) state.primed = false;
  else for (const event of found.events) takeEvent(state, event);
}

function takeEvent(state, event) {
  for (const face of event.faces) for (const label in face.shares) seeLabel(label);
  state.addEvent(event);
}

function onMessage(kind, data) {
  if (kind === "away") return setProblem(new api.ApiError("away", data.error));
  if (kind === "back") return setProblem(null);
  const state = app.feeds.get(data.feed);
  if (!state) return undefined;
  if (kind === "event") takeEvent(state, eventOf(data));
  else if (kind === "gap") {
    state.series.gaps.push({ ms: millisecondsOf(data.before), missing: data.missing });
  } else if (kind === "rewind") state.series.rewind(data.last);
  else if (kind === "preview") state.offer(data.frameId);
  return undefined;
}

async function look() {
  clearTimeout(look.timer);
  try {
    const [found, workers] = await Promise.all([api.feeds(), api.workers()]);
    serverClock.set(found.server.now_ms);
    takeFeeds(found);
    app.workers = workers;
    app.running = found.workers;
    app.looked = true;
    setProblem(null);
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error;
    setProblem(error);
  }
  update();
  app.follow();
  look.timer = setTimeout(look, Math.max(LOOK_MS, (app.problem?.retryAfter ?? 0) * 1000));
}

function takeFeeds({ feeds, complaints = {} }) {
  for (const [name, state] of app.feeds) {
    if (Object.hasOwn(feeds, name)) continue;
    if (name === app.view.name) state.figures = null; // the open view says that it is gone
    else app.feeds.delete(name);
  }
  for (const [name, figures] of Object.entries(feeds)) {
    if (!app.feeds.has(name)) app.feeds.set(name, new FeedState(name));
    const state = app.feeds.get(name);
    state.takeFigures(figures, Object.hasOwn(complaints, name) ? complaints[name] : "");
  }
}

function update() {
  app.view?.update();
  const all = [...app.feeds.values()].map((state) => state.figures);
  const sum = (key) => all.reduce((total, figures) => total + (figures?.[key] ?? 0), 0);
  say($("totals"), app.feeds.size ? [
    plural(app.feeds.size, "feed"), plural(app.running ?? 0, "worker"),
    `${rate(sum("published_per_s"))} events/s`,
  ].join(" · ") : "");
}

function setProblem(problem) {
  app.problem = problem;
  if (problem?.kind === "refused") session.ask(problem.message);
  showProblem();
}

function showProblem() {
  const { problem } = app;
  const banner = $("banner");
  const words = problem && problem.kind !== "refused" ? problem.message : "";
  const hint = {
    offline: "What is shown may be old. Trying again …",
    away: "Frames and events wait on it. Trying again …",
    busy: "Trying again soon …",
  }[problem?.kind] ?? "";
  banner.hidden = !words;
  say(banner, `${words} ${hint}`.trim());
  const state = problem ? "off" : app.streamLost ? "warn" : app.looked ? "live" : "off";
  $("link-state").dataset.level = state;
  say($("link-state"), { live: "connected", warn: "reconnecting …", off: problem ? "not connected" : "connecting …" }[state]);
  document.body.classList.toggle("is-old", Boolean(problem));
}

function seeLabel(label) {
  if (app.labels.has(label)) return;
  app.labels.add(label);
  $("legend").replaceChildren(...ordered(app.labels).map((name) => {
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.backgroundColor = variableOf(name);
    return h("li", {}, swatch, name);
  }));
}

/** #/ is the wall, #/feed/NAME one feed. */
function route() {
  const [, name] = location.hash.match(/^#\/feed\/([\w.-]+)$/) ?? [];
  app.view?.close();
  app.view = name ? feedView(app, name) : wallView(app);
  document.title = name ? `${name} · mien` : "mien";
  document.body.classList.toggle("in-feed", Boolean(name));
  $("main").replaceChildren(app.view.element);
  $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
  update();
  app.follow();
}

addEventListener("hashchange", route);
$("filter").addEventListener("input", (event) => {
  app.filter = event.target.value.trim().toLowerCase();
  if (location.hash.startsWith("#/feed/")) location.hash = "#/";
  else update();
});
$("help-open").addEventListener("click", () => $("help").showModal());
document.addEventListener("visibilitychange", () => document.hidden || look());
onSchemeChange(() => app.view.redraw());
handleKeys(app);
setInterval(() => app.view?.update(), 1000); // ages grow, also while nothing comes
route();
look();
