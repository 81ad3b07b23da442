// A frame's picture, if there is one, with its event drawn over it, in the picture's coordinates.

import { fitted } from "./dom.js";
import { percent } from "./format.js";
import { coloursAt, ordered } from "./palette.js";
import { sentenceOf } from "./records.js";

const CASING = "rgb(0 0 0 / 65%)";
const PANEL = "rgb(8 10 13 / 72%)";
const WHITE = "#fff";

/**
 * Draw into a canvas that has the frame's proportions.
 * bitmap: the picture, or null for an empty frame; chosen: the track to put forward.
 */
export function drawFrame(canvas, event, bitmap, { chosen = null, empty = "" } = {}) {
  const { context, width, height } = fitted(canvas);
  const colours = coloursAt(canvas);
  if (bitmap) context.drawImage(bitmap, 0, 0, width, height);
  else drawEmpty(context, width, height, empty);
  if (event) {
    const scale = width / event.width;
    const pen = { context, width, height, scale, colours, size: width < 420 ? 10.5 : 12 };
    const faces = [...event.faces].sort((a, b) => (a.track === chosen) - (b.track === chosen));
    for (const face of faces) drawBox(pen, face, face.track === chosen);
    for (const face of faces) drawPlate(pen, face);
    for (const face of faces) drawBars(pen, face);
  }
  const sentence = sentenceOf(event);
  if (canvas.getAttribute("aria-label") !== sentence) canvas.setAttribute("aria-label", sentence);
}

function drawEmpty(context, width, height, words) {
  context.strokeStyle = "rgb(255 255 255 / 7%)";
  context.lineWidth = 1;
  context.beginPath();
  for (const part of [1 / 3, 2 / 3]) {
    context.moveTo(width * part, 0);
    context.lineTo(width * part, height);
    context.moveTo(0, height * part);
    context.lineTo(width, height * part);
  }
  context.stroke();
  context.fillStyle = "rgb(255 255 255 / 45%)";
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  context.textBaseline = "alphabetic";
  context.fillText(words, width - 8, height - 8);
  context.textAlign = "left";
}

function sides(pen, { left, top, right, bottom }) {
  const [x, y] = [left * pen.scale, top * pen.scale];
  return { x, y, w: (right - left) * pen.scale, h: (bottom - top) * pen.scale };
}

function drawBox(pen, face, chosen) {
  const { context } = pen;
  const { x, y, w, h } = sides(pen, face.box);
  const line = chosen ? 3 : 2;
  // Followed faces have corners, detected ones a full box; what is not sure is dashed.
  const trace = face.tracked ? traceCorners : traceBox;
  context.setLineDash(face.uncertain ? [5, 4] : []);
  for (const [style, extra] of [[CASING, 2], [pen.colours.of(face.label), 0]]) {
    context.strokeStyle = style;
    context.lineWidth = line + extra;
    context.beginPath();
    trace(context, x, y, w, h);
    context.stroke();
  }
  context.setLineDash([]);
  if (w < 48) return;
  context.fillStyle = pen.colours.of(face.label);
  for (const point of face.landmarks) {
    context.beginPath();
    context.arc((point.x || 0) * pen.scale, (point.y || 0) * pen.scale, 1.4, 0, 7);
    context.fill();
  }
}

const traceBox = (context, x, y, w, h) => context.roundRect(x, y, w, h, 2);

function traceCorners(context, x, y, w, h) {
  const length = Math.max(6, Math.min(w, h) * 0.25);
  for (const [cx, cy, dx, dy] of [
    [x, y, 1, 1], [x + w, y, -1, 1], [x + w, y + h, -1, -1], [x, y + h, 1, -1],
  ]) {
    context.moveTo(cx + dx * length, cy);
    context.lineTo(cx, cy);
    context.lineTo(cx, cy + dy * length);
  }
}

function drawPlate(pen, face) {
  const { context, size } = pen;
  const { x, y, w, h } = sides(pen, face.box);
  const share = percent(face.shares[face.label] || 0);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const words = `#${face.track} ${face.label}${face.uncertain ? "?" : ""} ${share}`;
  const [plateWidth, plateHeight] = [context.measureText(words).width + 20, size + 7];
  const left = Math.max(0, Math.min(x - 1, pen.width - plateWidth));
  const above = y - plateHeight - 2;
  const top = above >= 0 ? above : Math.min(y + h + 2, pen.height - plateHeight);
  context.fillStyle = PANEL;
  context.beginPath();
  context.roundRect(left, top, plateWidth, plateHeight, 3);
  context.fill();
  context.fillStyle = pen.colours.of(face.label);
  context.fillRect(left + 5, top + plateHeight / 2 - 4, 8, 8);
  context.fillStyle = WHITE;
  context.textBaseline = "middle";
  context.fillText(words, left + 17, top + plateHeight / 2 + 0.5);
}

/** One bar for each label beside the box: with names where there is room, else the bars alone. */
function drawBars(pen, face) {
  const { context } = pen;
  const { x, y, w, h } = sides(pen, face.box);
  const labels = ordered(Object.keys(face.shares));
  if (!labels.length || h < 24) return;
  const named = pen.width >= 520;
  const row = named ? 13 : Math.max(3, Math.min(6, h / labels.length));
  const length = named ? 116 : Math.max(18, Math.min(40, w * 0.5));
  const room = (at) => at >= 0 && at + length <= pen.width;
  const left = [x + w + 4, x - 4 - length].find(room);
  if (left === undefined) return;
  const top = Math.max(0, Math.min(y, pen.height - row * labels.length));
  context.fillStyle = PANEL;
  context.fillRect(left, top, length, row * labels.length);
  context.font = "10px system-ui, sans-serif";
  context.textBaseline = "middle";
  labels.forEach((label, index) => {
    const at = top + index * row;
    const share = Math.min(1, Math.max(0, face.shares[label]));
    context.fillStyle = pen.colours.of(label);
    // Names stand beside the bars, never on them: no colour has to carry text.
    const from = named ? left + 54 : left;
    context.fillRect(from, at + (named ? 3 : 0.5), Math.max(1, share * (left + length - from - 3)),
      row - (named ? 6 : 1));
    if (!named) return;
    context.fillStyle = WHITE;
    context.fillText(label, left + 4, at + row / 2);
  });
}
