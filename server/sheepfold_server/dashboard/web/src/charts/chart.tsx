/** One chart: its picture, its numbers as a table, its files, and what happened beside it. */

import { signal } from "@preact/signals";
import { useMemo, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { jobUrl, type Series } from "../api";
import { ago, number, utc } from "../format";
import { events } from "../live";
import { change, go, job, now, view } from "../state";
import type { Loaded } from "./data";
import { savePicture } from "./download";
import { Picture } from "./picture";
import type { Format, Line } from "./plot";
import { valueAt } from "./series";

const ROWS = 200;

interface Props {
  title: string; unit: string; lines: readonly Line[]; loaded: Loaded;
  stacked?: boolean; smooths?: boolean; format?: Format;
  /** Log scale whatever the view says, for values of very different sizes. */
  isLog?: boolean;
  /** Drawn ahead: steps that are to come, so without times, ranges and CSV. */
  isPlan?: boolean;
}

export function Chart({ title, unit, lines, loaded, stacked = false, smooths = true, format = number, isLog = false, isPlan = false }: Props) {
  const at = useMemo(() => signal<number | null>(null), []);
  const plot = useRef<uPlot | null>(null);
  const found = loaded.series.value;
  const isTable = view.value.tables.includes(title);
  const name = title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const address = (ending: string): string => (job.value ? jobUrl(job.value, loaded.route + ending, loaded.query) : "");
  const toggle = (): void => change({ tables: isTable ? view.peek().tables.filter((each) => each !== title) : [...view.peek().tables, title] });
  const picture = (): void => {
    if (plot.current) savePicture(plot.current.ctx.canvas, `${job.value}-${name}.png`, { title: `${job.value}: ${title}`, entries: lines });
  };
  return (
    <section class="card chart" aria-label={title}>
      <header>
        <h2>{title} <span class="quiet">{unit}</span></h2>
        <div class="tools">
          <button type="button" aria-pressed={isTable} onClick={toggle}>table</button>
          {!isPlan && <a href={address(".csv")} download={`${job.value}-${name}.csv`}>CSV</a>}
          <a href={address("")} download={`${job.value}-${name}.json`}>JSON</a>
          <button type="button" disabled={isTable} onClick={picture}>PNG</button>
        </div>
      </header>
      {loaded.why.value ? <p class="empty">{loaded.why.value}</p>
        : !found ? <p class="empty">reading …</p>
        : !found.step.length ? <p class="empty">No step yet. This fills with the first committed one.</p>
        : isTable ? <Numbers series={found} lines={lines} format={format} isPlan={isPlan} />
        : <Picture title={title} series={found} lines={lines} stacked={stacked} smooths={smooths} format={format} isLog={isLog} isPlan={isPlan} at={at} keep={(made) => { plot.current = made; }} />}
      {found && found.step.length > 0 && <Readout series={found} lines={lines} format={format} isPlan={isPlan} index={at.value} />}
    </section>
  );
}

interface NumbersProps { series: Series; lines: readonly Line[]; format: Format; isPlan: boolean }

/** What the cursor points at in any chart; without one, the newest. */
function Readout({ series, lines, format, isPlan, index }: NumbersProps & { index: number | null }) {
  const i = index === null ? series.step.length - 1 : Math.min(index, series.step.length - 1);
  const step = series.step[i] ?? 0;
  const seconds = series.seconds[i] ?? 0;
  const next = series.step[i + 1] ?? step + series.steps_per_point;
  const happened = index === null ? [] : events.value.filter((event) => event.step >= step && event.step < next);
  const label = `step ${step.toLocaleString("en-US")}`;
  return (
    <div class="readout">
      <span>{isPlan ? label : <button type="button" class="link" onClick={() => go("step", { step })}>{label}</button>}
        {series.steps_per_point > 1 && !isPlan ? `, mean of ${series.steps_per_point}` : ""}</span>
      {lines.map((line) => (
        <span key={line.name}><i style={{ background: line.colour }} />{line.label} <b>{format(valueAt(series.series[line.name]?.mean, index))}</b></span>
      ))}
      {!isPlan && <time dateTime={new Date(seconds * 1000).toISOString()}>{utc(seconds).slice(11)}, {ago(seconds, now.value)}</time>}
      {happened.slice(0, 3).map((event) => <span key={event.id} class="happened">{event.kind}: {event.text}</span>)}
    </div>
  );
}

function Numbers({ series, lines, format, isPlan }: NumbersProps) {
  const from = Math.max(0, series.step.length - ROWS);
  const rows = series.step.slice(from).map((_, i) => series.step.length - 1 - i);
  return (
    <div class="scroll tall" tabIndex={0}><table>
      <caption class="quiet">{isPlan ? `the last ${rows.length} of ${series.step.length} points` : `the newest ${rows.length} of ${series.step.length} points; CSV has all`}</caption>
      <thead><tr><th class="n">step</th>{!isPlan && <th>seen committed</th>}{lines.map((line) => <th key={line.name} class="n">{line.label}</th>)}</tr></thead>
      <tbody>{rows.map((i) => (
        <tr key={series.step[i]}>
          <td class="n">{series.step[i]?.toLocaleString("en-US")}</td>{!isPlan && <td>{utc(series.seconds[i] ?? 0)}</td>}
          {lines.map((line) => <td key={line.name} class="n">{format(series.series[line.name]?.mean[i])}</td>)}
        </tr>
      ))}</tbody>
    </table></div>
  );
}
