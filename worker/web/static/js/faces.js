// The faces of the frame that is shown: what the model says of each, with all its probabilities.

import { h, say } from "./dom.js";
import { percent } from "./format.js";
import { ordered, variableOf } from "./palette.js";

/** onChoose(track): a face was chosen. */
export function facesPanel(onChoose) {
  const list = h("ul", { class: "faces" });
  const none = h("p", { class: "dim" });
  const element = h("section", { class: "panel faces-panel", "aria-label": "Faces in this frame" },
    h("h2", {}, "Faces in this frame"), none, list);
  const rows = new Map();

  function update(event, chosen) {
    const faces = event?.faces ?? [];
    none.hidden = faces.length > 0;
    say(none, event ? "No face." : "No event yet.");
    for (const [track, row] of rows) {
      if (faces.some((face) => face.track === track)) continue;
      row.element.remove();
      rows.delete(track);
    }
    for (const face of [...faces].sort((a, b) => a.track - b.track)) {
      if (!rows.has(face.track)) {
        const row = faceRow(face.track, onChoose);
        rows.set(face.track, row);
        const after = [...rows.keys()].filter((track) => track > face.track).sort((a, b) => a - b)[0];
        list.insertBefore(row.element, rows.get(after)?.element ?? null);
      }
      rows.get(face.track).update(face, face.track === chosen);
    }
  }
  return { element, update };
}

function faceRow(track, onChoose) {
  const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
  const name = h("button", { type: "button", class: "face-name", onclick: () => onChoose(track) });
  const tags = h("p", { class: "tags" });
  const bars = h("dl", { class: "bars" });
  const element = h("li", { "data-track": track }, h("p", { class: "face-head" }, swatch, name), tags, bars);

  function update(face, isChosen) {
    element.classList.toggle("chosen", isChosen);
    element.classList.toggle("uncertain", face.uncertain);
    swatch.style.backgroundColor = variableOf(face.label);
    say(name, `#${track}  ${face.label}${face.uncertain ? "?" : ""}`);
    name.setAttribute("aria-pressed", isChosen);
    say(tags, [
      face.tracked ? "followed" : "found anew",
      face.uncertain ? "not sure" : "",
      face.quality === null ? "" : `quality ${face.quality.toFixed(2)}`,
      `${Math.round(face.box.right - face.box.left)} × ${Math.round(face.box.bottom - face.box.top)} px`,
    ].filter(Boolean).join(" · "));
    const labels = ordered(Object.keys(face.shares));
    if (bars.children.length !== labels.length) bars.replaceChildren(...labels.map(barRow));
    labels.forEach((label, index) => {
      const row = bars.children[index];
      const share = face.shares[label];
      say(row.firstElementChild, label);
      row.classList.toggle("best", label === face.label);
      row.children[1].firstElementChild.style.setProperty("--share", share);
      row.children[1].firstElementChild.style.setProperty("--colour", variableOf(label));
      say(row.children[1].lastElementChild, percent(share));
    });
  }
  return { element, update };
}

const barRow = () => h("div", {}, h("dt"), h("dd", {}, h("span", { class: "bar" }), h("span", { class: "value" })));
