/** Trust ratios of all slices: the map, the lines of one, and a table to sort and search. */

import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { jobUrl, read, type SliceRange } from "../api";
import { Chart } from "../charts/chart";
import { useSliceSeries } from "../charts/data";
import { HeatMap, useHeat } from "../charts/heat";
import { count, number } from "../format";
import type { HeatValue } from "../permalink";
import { change, job, view } from "../state";
import { colour } from "./overview";

const READ_EVERY_MS = 2000;
const VALUES: readonly (readonly [HeatValue, string])[] = [
  ["trust_ratio", "trust ratio"], ["weight_norm", "‖w‖"], ["update_norm", "‖u‖"], ["gradient_norm", "‖g‖"],
];
type Key = "name" | "trust_ratio" | "trust_ratio_min" | "trust_ratio_max" | "trust_ratio_drift" | "steps_clamped" | "w_norm" | "u_norm" | "g_norm" | "noise_scale";
const COLUMNS: readonly (readonly [Key, string, string])[] = [
  ["name", "slice", "as in the model"],
  ["trust_ratio", "ratio", "in the newest step"],
  ["trust_ratio_min", "min", "over the kept steps"],
  ["trust_ratio_max", "max", "over the kept steps"],
  ["trust_ratio_drift", "drift", "newest over median; 1 is none"],
  ["steps_clamped", "clamped", "newest steps in a row that met a bound"],
  ["w_norm", "‖w‖", "before the step"],
  ["u_norm", "‖u‖", "of the update"],
  ["g_norm", "‖g‖", "of the mean gradient"],
  ["noise_scale", "noise scale", "gradient noise scale of the slice, in samples"],
];

export function Layers() {
  const { found, why, url } = useHeat();
  return (
    <>
      <section class="card wide" aria-label="Heat map">
        <header>
          <h2>{VALUES.find(([value]) => value === view.value.value)?.[1]} <span class="quiet">{view.value.value === "trust_ratio" ? "blue below 1, red above, log scale; a mark where a bound was met" : "log scale"}</span></h2>
          <div class="tools">
            <input id="find" type="search" placeholder="find a layer  /" aria-label="find a layer by name" value={view.value.find}
              onInput={(event) => change({ find: event.currentTarget.value })} />
            <select aria-label="what is drawn" value={view.value.value} onChange={(event) => change({ value: event.currentTarget.value as HeatValue })}>
              {VALUES.map(([value, label]) => <option key={value} value={value}>{label}</option>)}
            </select>
          </div>
        </header>
        {found.value && found.value.map.step.length > 0 ? <HeatMap decoded={found.value} url={url} />
          : <p class="empty">{why.value || "No step yet. Rows appear with the first committed one."}</p>}
      </section>
      {view.value.slice && <OneSlice name={view.value.slice} />}
      <Table />
    </>
  );
}

function OneSlice({ name }: { name: string }) {
  const loaded = useSliceSeries(name);
  return (
    <>
      <Chart title={`Trust ratio of ${name}`} unit="" loaded={loaded} lines={[{ name: "trust_ratio", label: "ratio", colour: colour(0) }]} />
      <Chart title={`Norms of ${name}`} unit="" loaded={loaded} lines={[
        { name: "weight_norm", label: "‖w‖", colour: colour(2) }, { name: "update_norm", label: "‖u‖", colour: colour(1) },
        { name: "gradient_norm", label: "‖g‖", colour: colour(3) },
      ]} />
    </>
  );
}

/** Rows in the order of a column; those without a value last. */
export function sorted(rows: readonly SliceRange[], key: Key, isDown: boolean): SliceRange[] {
  const sign = isDown ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [a[key], b[key]];
    if (typeof x === "string" && typeof y === "string") return sign * x.localeCompare(y, "en", { numeric: true });
    if (x === null || y === null) return Number(x === null) - Number(y === null);
    return sign * (Number(x) - Number(y));
  });
}

function Table() {
  const rows = useMemo(() => signal<SliceRange[]>([]), []);
  const order = useMemo(() => signal<{ key: Key; isDown: boolean } | null>(null), []);
  const name = job.value;
  useEffect(() => {
    let isCurrent = true;
    const load = (): void => {
      if (name) void read<SliceRange[]>(jobUrl(name, "/slices")).then((found) => { if (isCurrent) rows.value = found; }, () => undefined);
    };
    load();
    const timer = setInterval(load, READ_EVERY_MS);
    return () => { isCurrent = false; clearInterval(timer); };
  }, [name]);
  const wanted = view.value.find.toLowerCase();
  const found = rows.value.filter((row) => row.name.toLowerCase().includes(wanted));
  const shown = order.value ? sorted(found, order.value.key, order.value.isDown) : found;
  const toggle = (key: Key): void => {
    const was = order.value;
    order.value = was?.key === key && !was.isDown ? null : { key, isDown: was?.key !== key };
  };
  return (
    <section class="card wide" aria-label="Slices">
      <header><h2>Slices <span class="quiet">{count(shown.length)} of {count(rows.value.length)}, newest step</span></h2>
        <div class="tools"><a href={name ? jobUrl(name, "/slices.csv") : ""} download={`${name}-slices.csv`}>CSV</a></div></header>
      {shown.length === 0 ? <p class="empty">{rows.value.length ? "No slice has that in its name." : "None yet. They are known with the first applied step."}</p> : <div class="scroll tall"><table>
        <thead><tr>{COLUMNS.map(([key, label, hint]) => (
          <th key={key} class={key === "name" ? "" : "n"} title={hint} aria-sort={order.value?.key === key ? (order.value.isDown ? "descending" : "ascending") : "none"}>
            <button type="button" class="link" onClick={() => toggle(key)}>{label}{order.value?.key === key ? (order.value.isDown ? " ↓" : " ↑") : ""}</button>
          </th>
        ))}</tr></thead>
        <tbody>{shown.map((row) => (
          <tr key={row.slice} class={row.name === view.value.slice ? "chosen" : ""}>
            <td><button type="button" class="link" onClick={() => change({ slice: row.name })}>{row.name}</button></td>
            <td class="n" data-ratio={row.name}>{number(row.trust_ratio)}</td><td class="n">{number(row.trust_ratio_min)}</td><td class="n">{number(row.trust_ratio_max)}</td>
            <td class="n">{number(row.trust_ratio_drift)}</td><td class={row.steps_clamped ? "n bad" : "n"}>{row.steps_clamped ? `${count(row.steps_clamped)} ${row.clamp}` : ""}</td>
            <td class="n">{number(row.w_norm)}</td><td class="n">{number(row.u_norm)}</td><td class="n">{number(row.g_norm)}</td>
            <td class="n">{row.noise_scale === null ? "–" : count(row.noise_scale)}</td>
          </tr>
        ))}</tbody>
      </table></div>}
    </section>
  );
}
