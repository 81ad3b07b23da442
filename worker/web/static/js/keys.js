// The keyboard: what holds on every view. A view's own keys are in its key(event).

import { $ } from "./dom.js";

export function handleKeys(app) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    const typing = event.target.matches("input, textarea, select");
    if (typing && event.key === "Escape") event.target.blur();
    if (typing) return;
    if (app.view.key(event) || onEveryView(event, app)) event.preventDefault();
  });
}

function onEveryView({ key }, app) {
  if (key === "?") $("help").showModal();
  else if (key === "/") $("filter").focus();
  else if (key === "Escape") location.hash = "#/";
  else if (key === "[" || key === "]") openNeighbour(app, key === "]" ? 1 : -1);
  else return false;
  return true;
}

function openNeighbour(app, step) {
  const names = [...app.feeds.keys()].sort();
  if (!names.length) return;
  const place = names.indexOf(app.view.name);
  const next = place < 0 ? 0 : (place + step + names.length) % names.length;
  location.hash = `#/feed/${encodeURIComponent(names[next])}`;
}
