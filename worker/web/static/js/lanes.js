// The timeline's lanes: a row for each track, coloured by its expression, in a canvas.

import { fitted } from "./dom.js";
import { coloursAt } from "./palette.js";

/**
 * Draw `lanes` (see series.js) from `from` to `to` (ms). options: row (height of a lane), chosen
 * (track), gaps (see Series), words (write labels into long spans), known (ms since when all events are here).
 */
export function drawLanes(canvas, lanes, from, to, options) {
  const { row, chosen = null, gaps = [], words = false, known = from } = options;
  const { context, width } = fitted(canvas);
  const colours = coloursAt(canvas);
  const x = (ms) => ((ms - from) / (to - from)) * width;
  context.font = "600 11px system-ui, sans-serif";
  context.textBaseline = "middle";
  lanes.forEach((lane, index) => {
    const top = index * row;
    const height = row - (row > 12 ? 4 : 2);
    context.fillStyle = colours.line;
    const start = Math.max(0, x(known));
    if (lane.track === chosen) context.fillRect(start, top, width - start, row);
    else context.fillRect(start, top + row / 2 - 0.5, width - start, 1);
    for (const span of lane.spans) drawSpan(context, span, x, top + (row - height) / 2, height, colours);
    if (words) for (const span of lane.spans) drawWord(context, span, x, top + row / 2, colours);
  });
  for (const gap of gaps) {
    if (gap.ms < from || gap.ms > to) continue;
    context.fillStyle = colours.dim;
    context.fillRect(x(gap.ms) - 1, 0, 2, Math.max(row, lanes.length * row));
  }
}

function drawSpan(context, span, x, top, height, colours) {
  const start = Math.max(0, x(span.from));
  const width = Math.max(1.5, x(span.to) - start);
  if (start + width < 0) return;
  context.fillStyle = colours.of(span.label);
  if (!span.uncertain) {
    context.fillRect(start, top, width, height);
    return;
  }
  // Not sure: hatched, so that colour does not say it alone.
  context.save();
  context.beginPath();
  context.rect(start, top, width, height);
  context.clip();
  context.globalAlpha *= 0.35;
  context.fillRect(start, top, width, height);
  context.globalAlpha /= 0.35;
  context.strokeStyle = colours.of(span.label);
  context.lineWidth = 1.5;
  context.beginPath();
  // Phase by absolute position, so that the hatching of neighbours lines up.
  for (let at = Math.floor(start / 5) * 5 - height; at < start + width; at += 5) {
    context.moveTo(at, top + height);
    context.lineTo(at + height, top);
  }
  context.stroke();
  context.restore();
}

function drawWord(context, span, x, middle, colours) {
  const start = Math.max(0, x(span.from));
  const word = span.uncertain ? `${span.label}?` : span.label;
  const needed = context.measureText(word).width;
  if (x(span.to) - start < needed + 14) return;
  context.fillStyle = colours.surface;
  context.beginPath();
  context.roundRect(start + 3, middle - 7, needed + 8, 14, 3);
  context.fill();
  context.fillStyle = colours.ink;
  context.fillText(word, start + 7, middle + 0.5);
}
