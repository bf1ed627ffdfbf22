/** Options of uPlot for our charts: lines with their range and raw values, or areas on top of each other. */

import uPlot from "uplot";
import type { Series } from "../api";
import { clocks } from "../format";
import type { Axis } from "../permalink";
import { smoothed } from "../smooth";

export interface Line { name: string; label: string; colour: string }
/** A number as the chart's unit wants it; null and undefined too. */
export type Format = (value: number | null | undefined) => string;
export interface Look { lines: readonly Line[]; stacked: boolean; log: boolean; axis: Axis; smooth: number; format: Format }

const DOUBLE_CLICK_MS = 280;
/** A line of one point would not be seen. */
const LONE: uPlot.Series.Points = { show: (plot) => plot.data[0].length === 1, size: 7 };

export function xOf(series: Series, axis: Axis): number[] {
  if (axis === "time") return series.seconds;
  return axis === "samples" ? series.samples : series.step;
}

/** Columns as uPlot wants them: x, then what `seriesOf` lists, in its order. */
export function columns(series: Series, look: Look): uPlot.AlignedData {
  const out: (number | null)[][] = [];
  const positive = (values: readonly (number | null)[]): (number | null)[] =>
    look.log ? values.map((value) => (value !== null && value > 0 ? value : null)) : [...values];
  if (look.stacked) {
    let below: number[] = series.step.map(() => 0);
    for (const line of look.lines) {
      const values = series.series[line.name]?.mean ?? [];
      below = below.map((sum, i) => sum + (values[i] ?? 0));
      out.push(below);
    }
    return [xOf(series, look.axis), ...out] as uPlot.AlignedData;
  }
  for (const line of look.lines) {
    const band = series.series[line.name];
    const mean = band?.mean ?? series.step.map(() => null);
    out.push(positive(band?.max ?? mean), positive(band?.min ?? mean), positive(mean), positive(smoothed(mean, look.smooth)));
  }
  return [xOf(series, look.axis), ...out] as uPlot.AlignedData;
}

function withAlpha(colour: string, alpha: string): string {
  return colour + alpha;
}

function seriesOf(look: Look): { series: uPlot.Series[]; bands: uPlot.Band[] } {
  const shown: uPlot.Series[] = [{ label: look.axis }];
  const bands: uPlot.Band[] = [];
  for (const line of look.lines) {
    if (look.stacked) {
      const at = shown.length;
      shown.push({ label: line.label, stroke: line.colour, width: 1, fill: withAlpha(line.colour, "90"), points: LONE });
      if (at > 1) bands.push({ series: [at, at - 1], fill: withAlpha(line.colour, "90") });
      continue;
    }
    const at = shown.length;
    const edge: uPlot.Series = { label: `${line.label} range`, stroke: "#0000", width: 0, points: { show: false } };
    const isSmooth = look.smooth > 0;
    shown.push(edge, { ...edge },
      { label: `${line.label} raw`, stroke: withAlpha(line.colour, isSmooth ? "60" : "ff"), width: isSmooth ? 1 : 1.6, points: LONE },
      { label: line.label, stroke: line.colour, width: 1.8, points: LONE, show: isSmooth });
    bands.push({ series: [at, at + 1], fill: withAlpha(line.colour, "28") });
  }
  if (look.stacked && bands.length) for (const band of bands) shown[band.series[0]]!.fill = undefined;
  return { series: shown, bands };
}

export interface Hooks {
  /** Left out: no part can be chosen. */
  onZoom?: (first: number, last: number) => void;
  onReset: () => void;
  /** A click, and not the first of two. Left out: a click does nothing. */
  onPick?: (index: number) => void;
  onCursor: (index: number | null) => void;
}

/** Places on the x axis: of events, and of the present where the chart goes beyond it. */
export interface Marks { events: readonly number[]; present: number | null }

export function optionsOf(
  look: Look, size: { width: number; height: number }, colours: { ink: string; line: string }, hooks: Hooks,
  marks: () => Marks,
): uPlot.Options {
  const axis: uPlot.Axis = {
    stroke: colours.ink, grid: { stroke: colours.line, width: 1 }, ticks: { stroke: colours.line, width: 1 }, font: "11px system-ui",
  };
  return {
    ...size,
    ...seriesOf(look),
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    cursor: { sync: { key: "steps" }, drag: { x: Boolean(hooks.onZoom), y: false, setScale: false }, bind: { dblclick: () => () => { hooks.onReset(); return null; } } },
    scales: { x: { time: look.axis === "time" }, y: look.stacked ? { range: (_, least, most) => [Math.min(0, least ?? 0), (most ?? 1) * 1.05 || 1] } : { distr: look.log ? 3 : 1 } },
    axes: [
      look.axis === "time" ? { ...axis, size: 38, values: (_, ticks, _place, _space, distance) => clocks(ticks, distance) } : { ...axis, size: 26, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en-US") : "")) },
      { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : look.format(tick))) },
    ],
    hooks: {
      ready: [(plot) => { if (hooks.onPick) listenForPicks(plot.over, (left) => hooks.onPick?.(plot.posToIdx(left))); }],
      setSelect: [(plot) => {
        if (plot.select.width < 4) return;
        hooks.onZoom?.(plot.posToIdx(plot.select.left), plot.posToIdx(plot.select.left + plot.select.width));
        plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      }],
      setCursor: [(plot) => hooks.onCursor(plot.cursor.idx ?? null)],
      draw: [(plot) => drawMarks(plot, marks(), colours.ink)],
    },
  };
}

/** Tells of single clicks of a mouse. A finger has no way to point before it presses: it reads by a touch. */
function listenForPicks(over: HTMLElement, pick: (left: number) => void): void {
  let timer = 0;
  let downAt = 0;
  over.addEventListener("mousedown", (event) => { downAt = event.clientX; });
  over.addEventListener("dblclick", () => clearTimeout(timer));
  over.addEventListener("click", (event) => {
    clearTimeout(timer);
    const isDrag = Math.abs(event.clientX - downAt) > 3;
    if (isDrag || event.detail !== 1 || (event as PointerEvent).pointerType === "touch") return;
    timer = window.setTimeout(pick, DOUBLE_CLICK_MS, event.offsetX);
  });
}

function drawMarks(plot: uPlot, { events, present }: Marks, colour: string): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour;
  const upright = (x: number): number | null => {
    const left = Math.round(plot.valToPos(x, "x", true));
    if (left < bbox.left || left > bbox.left + bbox.width) return null;
    ctx.beginPath();
    ctx.moveTo(left, bbox.top);
    ctx.lineTo(left, bbox.top + bbox.height);
    ctx.stroke();
    return left;
  };
  if (present !== null) {
    ctx.lineWidth = 2 * devicePixelRatio;
    upright(present);
  }
  ctx.lineWidth = devicePixelRatio;
  ctx.globalAlpha = 0.4;
  ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const x of new Set(events)) {
    const left = upright(x);
    if (left !== null) ctx.fillRect(left - 3, bbox.top + bbox.height - 6, 6, 6);
  }
  ctx.restore();
}
