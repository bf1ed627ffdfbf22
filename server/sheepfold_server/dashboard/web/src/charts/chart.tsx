/** One chart: its picture, its numbers as a table, its files, and what happened beside it. */

import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import { type JobEvent, jobUrl, type Series } from "../api";
import { number, utc } from "../format";
import { events } from "../live";
import { change, isDark, job, view } from "../state";
import type { Loaded } from "./data";
import { savePicture } from "./download";
import { columns, type Line, type Look, optionsOf, xOf } from "./plot";

const HEIGHT = 220;
const ROWS = 200;

interface Props { title: string; unit: string; lines: readonly Line[]; loaded: Loaded; stacked?: boolean; smooths?: boolean }

export function Chart({ title, unit, lines, loaded, stacked = false, smooths = true }: Props) {
  const isTable = useMemo(() => signal(false), []);
  const at = useMemo(() => signal<number | null>(null), []);
  const plot = useRef<uPlot | null>(null);
  const found = loaded.series.value;
  const name = title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const address = (ending: string): string => (job.value ? jobUrl(job.value, loaded.route + ending, loaded.query) : "");
  return (
    <section class="card chart" aria-label={title}>
      <header>
        <h2>{title} <span class="quiet">{unit}</span></h2>
        <div class="tools">
          <button type="button" aria-pressed={isTable.value} onClick={() => { isTable.value = !isTable.value; }}>table</button>
          {loaded.hasCsv && <a href={address(".csv")} download={`${job.value}-${name}.csv`}>CSV</a>}
          <a href={address("")} download={`${job.value}-${name}.json`}>JSON</a>
          <button type="button" onClick={() => { if (plot.current) savePicture(plot.current.ctx.canvas, `${job.value}-${name}.png`); }}>PNG</button>
        </div>
      </header>
      {loaded.why.value ? <p class="empty">{loaded.why.value}</p>
        : !found ? <p class="empty">reading …</p>
        : !found.step.length ? <p class="empty">No step yet. This fills with the first committed one.</p>
        : isTable.value ? <Numbers series={found} lines={lines} />
        : <Picture series={found} lines={lines} stacked={stacked} smooths={smooths} at={at} keep={(made) => { plot.current = made; }} />}
      {found && found.step.length > 0 && <Readout series={found} lines={lines} index={at.value} />}
    </section>
  );
}

interface PictureProps {
  series: Series; lines: readonly Line[]; stacked: boolean; smooths: boolean;
  at: { value: number | null }; keep: (plot: uPlot | null) => void;
}

function Picture({ series, lines, stacked, smooths, at, keep }: PictureProps) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const present = useRef(series);
  present.current = series;
  const { axis, log, smooth } = view.value;
  const look: Look = { lines, stacked, log, axis, smooth: smooths && !stacked ? smooth : 0 };
  const structure = JSON.stringify([look.lines, stacked, log, axis, look.smooth > 0, isDark.value]);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const style = getComputedStyle(element);
    const colours = { ink: style.getPropertyValue("--quiet"), line: style.getPropertyValue("--line") };
    const step = (index: number): number => present.current.step[Math.max(0, Math.min(index, present.current.step.length - 1))] ?? 0;
    const made = new uPlot(
      optionsOf(look, { width: element.clientWidth, height: HEIGHT }, colours, {
        onZoom: (first, last) => change({ range: [step(first), Math.max(step(first), step(last))], follow: false }),
        onReset: () => change({ range: null }),
        onCursor: (index) => { at.value = index; },
      }, () => marksOf(present.current, axis)),
      columns(present.current, look), element,
    );
    plot.current = made;
    keep(made);
    const watcher = new ResizeObserver(() => {
      if (element.clientWidth) made.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    watcher.observe(element);
    return () => { watcher.disconnect(); made.destroy(); plot.current = null; keep(null); };
  }, [structure]);
  const seen = events.value.length;
  useEffect(() => { plot.current?.setData(columns(series, look)); }, [series, look.smooth, seen]);
  return <div ref={place} class="plot" />;
}

function marksOf(series: Series, axis: Look["axis"]): { x: number; event: JobEvent }[] {
  const xs = xOf(series, axis);
  const first = series.step[0] ?? 0;
  return events.peek().filter((event) => event.step >= first).map((event) => ({ x: xs[indexOf(series.step, event.step)] ?? 0, event }));
}

/** The last place whose step is not after this one. */
export function indexOf(steps: readonly number[], step: number): number {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((steps[middle] ?? 0) <= step) low = middle;
    else high = middle - 1;
  }
  return low;
}

function Readout({ series, lines, index }: { series: Series; lines: readonly Line[]; index: number | null }) {
  const i = index === null ? series.step.length - 1 : Math.min(index, series.step.length - 1);
  const step = series.step[i] ?? 0;
  const next = series.step[i + 1] ?? step + series.steps_per_point;
  const happened = index === null ? [] : events.value.filter((event) => event.step >= step && event.step < next);
  return (
    <div class="readout">
      <span>step {step.toLocaleString("en-US")}{series.steps_per_point > 1 ? `, mean of ${series.steps_per_point}` : ""}</span>
      {lines.map((line) => (
        <span key={line.name}><i style={{ background: line.colour }} />{line.label} <b>{number(series.series[line.name]?.mean[i])}</b></span>
      ))}
      {happened.slice(0, 3).map((event) => <span key={event.id} class="happened">{event.kind}: {event.text}</span>)}
    </div>
  );
}

function Numbers({ series, lines }: { series: Series; lines: readonly Line[] }) {
  const from = Math.max(0, series.step.length - ROWS);
  const rows = series.step.slice(from).map((_, i) => series.step.length - 1 - i);
  return (
    <div class="scroll tall"><table>
      <caption class="quiet">the newest {rows.length} of {series.step.length} points; CSV has all</caption>
      <thead><tr><th class="n">step</th><th>seen committed</th>{lines.map((line) => <th key={line.name} class="n">{line.label}</th>)}</tr></thead>
      <tbody>{rows.map((i) => (
        <tr key={series.step[i]}>
          <td class="n">{series.step[i]?.toLocaleString("en-US")}</td><td>{utc(series.seconds[i] ?? 0)}</td>
          {lines.map((line) => <td key={line.name} class="n">{number(series.series[line.name]?.mean[i])}</td>)}
        </tr>
      ))}</tbody>
    </table></div>
  );
}
