/** The heat map: a row per slice, a column per step or group of steps, colours around a ratio of 1. */

import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { type Heatmap, jobUrl, read } from "../api";
import { decodeBytes, decodeFloats, scaleOf } from "../colour";
import { number } from "../format";
import { newSteps, stale } from "../live";
import { change, go, isDark, job, view } from "../state";
import { savePicture } from "./download";

const COLUMNS = 300;
const AXIS_HEIGHT = 18;
const READ_EVERY_MS = 2000;

export interface Decoded { map: Heatmap; values: Float32Array; clamped: Uint8Array }

/** The map of the view's range; read again as steps come, at most every two seconds. */
export function useHeat() {
  const { range, value, lineage, follow } = view.value;
  const found = useMemo(() => signal<Decoded | null>(null), []);
  const why = useMemo(() => signal(""), []);
  const query = { from: range?.[0] ?? null, to: range && !follow ? range[1] : null, columns: COLUMNS, value, lineage };
  const url = job.value ? jobUrl(job.value, "/heatmap", query) : "";
  const round = stale.value;
  useEffect(() => {
    if (!url) return;
    let isCurrent = true;
    let timer = 0;
    const load = (): Promise<void> => read<Heatmap>(url).then(
      (map) => {
        if (!isCurrent) return;
        found.value = { map, values: decodeFloats(map.data), clamped: decodeBytes(map.clamped) };
        why.value = "";
      },
      (error: Error) => { if (isCurrent) why.value = error.message; },
    );
    void load();
    const stop = newSteps.subscribe((steps) => {
      if (steps.length && !timer && query.to === null) timer = window.setTimeout(() => { timer = 0; void load(); }, READ_EVERY_MS);
    });
    return () => { isCurrent = false; clearTimeout(timer); stop(); };
  }, [url, round]);
  return { found, why, url };
}

export function rowsShown(map: Heatmap, find: string): number[] {
  const wanted = find.toLowerCase();
  return map.slices.map((_, i) => i).filter((i) => (map.slices[i] ?? "").toLowerCase().includes(wanted));
}

/** Draw the rows into a canvas of CSS size `width`; returns the height of a row. */
export function draw(canvas: HTMLCanvasElement, decoded: Decoded, rows: readonly number[], width: number, dark: boolean): number {
  const { map, values, clamped } = decoded;
  const columns = map.step.length;
  const gutter = gutterOf(rows.length, width);
  const rowHeight = Math.max(4, Math.min(16, Math.floor(560 / Math.max(1, rows.length))));
  const ratio = window.devicePixelRatio || 1;
  const height = rowHeight * rows.length;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round((height + AXIS_HEIGHT) * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height + AXIS_HEIGHT}px`;
  const context = canvas.getContext("2d");
  if (!context || !columns || !rows.length) return rowHeight;
  const isRatio = map.value === "trust_ratio";
  const { shades } = scaleOf(values, isRatio, dark);
  const image = new ImageData(columns, rows.length);
  const pixels = new Uint32Array(image.data.buffer);
  rows.forEach((row, y) => {
    shades.paint(values.subarray(row * columns, (row + 1) * columns), pixels.subarray(y * columns, (y + 1) * columns));
  });
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows.length;
  small.getContext("2d")?.putImageData(image, 0, 0);
  context.scale(ratio, ratio);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, gutter, 0, width - gutter, height);
  context.save();
  context.translate(gutter, 0);
  if (isRatio) drawClamps(context, clamped, rows, columns, (width - gutter) / columns, rowHeight, dark);
  drawSteps(context, map, width - gutter, height, getComputedStyle(canvas).color);
  context.restore();
  if (gutter) drawNames(context, map, rows, gutter, rowHeight, getComputedStyle(canvas).color);
  return rowHeight;
}

/** Room for names beside the rows, in CSS pixels; none where rows are too low or the screen too narrow. */
export function gutterOf(rows: number, width: number): number {
  return rows <= 46 && width > 560 ? 150 : 0;
}

function drawNames(context: CanvasRenderingContext2D, map: Heatmap, rows: readonly number[], gutter: number, rowHeight: number, colour: string): void {
  context.fillStyle = colour;
  context.font = "11px system-ui";
  context.textAlign = "right";
  rows.forEach((row, y) => {
    let name = map.slices[row] ?? "";
    while (name.length > 4 && context.measureText(name).width > gutter - 10) name = `…${name.slice(name.startsWith("…") ? 2 : 1)}`;
    context.fillText(name, gutter - 6, y * rowHeight + rowHeight - Math.max(1, (rowHeight - 9) / 2));
  });
  context.textAlign = "left";
}

function drawClamps(context: CanvasRenderingContext2D, clamped: Uint8Array, rows: readonly number[], columns: number, cell: number, rowHeight: number, dark: boolean): void {
  context.fillStyle = dark ? "#fff" : "#000";
  rows.forEach((row, y) => {
    for (let x = 0; x < columns; x++) {
      if (clamped[row * columns + x]) context.fillRect(x * cell, y * rowHeight + rowHeight - 1, Math.max(1, cell), 1);
    }
  });
}

function drawSteps(context: CanvasRenderingContext2D, map: Heatmap, width: number, height: number, colour: string): void {
  context.fillStyle = colour;
  context.font = "11px system-ui";
  const every = Math.max(1, Math.ceil(map.step.length / Math.max(2, Math.floor(width / 90))));
  map.step.forEach((step, x) => {
    if (x % every === 0) context.fillText(step.toLocaleString("en-US"), (x * width) / map.step.length, height + 13);
  });
}

const LEGEND_PIXELS = 160;

/** The colours of the map from least to most, with what they mean at both ends and in the middle. */
function Legend({ decoded }: { decoded: Decoded }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const scale = useMemo(() => scaleOf(decoded.values, decoded.map.value === "trust_ratio", isDark.value), [decoded, isDark.value]);
  const { least, most, shades } = scale;
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    const image = new ImageData(LEGEND_PIXELS, 1);
    shades.paint(Float32Array.from({ length: LEGEND_PIXELS }, (_, x) => least * (most / least) ** (x / (LEGEND_PIXELS - 1))), new Uint32Array(image.data.buffer));
    context.putImageData(image, 0, 0);
  }, [scale]);
  const isRatio = decoded.map.value === "trust_ratio";
  return (
    <span class="legend" role="img" aria-label={`colours from ${number(least)} and less to ${number(most)} and more, log scale; grey: not in that step`}>
      {isRatio ? "≤ " : ""}{number(least)} <canvas ref={canvas} width={LEGEND_PIXELS} height={1} /> {isRatio ? "≥ " : ""}{number(most)}
    </span>
  );
}

export function HeatMap({ decoded, url }: { decoded: Decoded; url: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const box = useRef<HTMLDivElement>(null);
  const hint = useMemo(() => signal(""), []);
  const height = useRef(4);
  const rows = useMemo(() => rowsShown(decoded.map, view.value.find), [decoded.map, view.value.find]);
  useEffect(() => {
    let drawn = -1;  // the width; an observer calls once as it begins, and nothing has changed then
    const paint = (): void => {
      if (!canvas.current || !box.current) return;
      const began = performance.now();
      const width = box.current.clientWidth;
      if (width === drawn) return;
      height.current = draw(canvas.current, decoded, rows, width, isDark.value);
      drawn = width;
      performance.measure("heat map", { start: began, end: performance.now() });
    };
    paint();
    const watcher = new ResizeObserver(paint);
    if (box.current) watcher.observe(box.current);
    return () => watcher.disconnect();
  }, [decoded, rows, isDark.value]);
  const under = (event: MouseEvent): { row: number; column: number } | null => {
    const place = canvas.current?.getBoundingClientRect();
    if (!place) return null;
    const row = rows[Math.floor((event.clientY - place.top) / height.current)];
    const gutter = gutterOf(rows.length, place.width);
    const column = Math.floor(((event.clientX - place.left - gutter) / (place.width - gutter)) * decoded.map.step.length);
    return row === undefined || column < 0 || column >= decoded.map.step.length ? null : { row, column };
  };
  const told = (event: MouseEvent): void => {
    const at = under(event);
    if (!at) { hint.value = ""; return; }
    const value = decoded.values[at.row * decoded.map.step.length + at.column];
    const clamp = decoded.clamped[at.row * decoded.map.step.length + at.column] ? ", met a bound" : "";
    hint.value = `${decoded.map.slices[at.row]}, step ${decoded.map.step[at.column]?.toLocaleString("en-US")}: ${number(value)}${clamp}`;
  };
  return (
    <div>
      <div class="heat" ref={box}>
        <canvas ref={canvas} role="img" aria-label={`${decoded.map.value} of ${rows.length} slices over ${decoded.map.step.length} columns; the table below has the newest values`}
          onMouseMove={told} onMouseLeave={() => { hint.value = ""; }}
          onClick={(event) => { const at = under(event); if (at) change({ slice: decoded.map.slices[at.row] ?? "" }); }}
          onDblClick={(event) => { const at = under(event); if (at) go("step", { step: decoded.map.step[at.column] ?? null }); }} />
      </div>
      <div class="readout">
        <span>{hint.value || (rows.length ? "point at a cell; click a row for its lines, double-click for its step" : `no layer has “${view.value.find}” in its name`)}</span>
        <span class="tools">
          <Legend decoded={decoded} />
          <a href={url} download={`${job.value}-heatmap.json`}>JSON</a>
          <button type="button" onClick={() => { if (canvas.current) savePicture(canvas.current, `${job.value}-heatmap.png`); }}>PNG</button>
        </span>
      </div>
    </div>
  );
}
