/** The whole view in the address, so that a link shows another person the same. */

export const VIEWS = ["overview", "layers", "step", "workers", "shards", "job"] as const;
export type ViewName = (typeof VIEWS)[number];
export type Axis = "step" | "time" | "samples";
export type HeatValue = "trust_ratio" | "weight_norm" | "update_norm" | "gradient_norm";

export interface View {
  job: string;
  view: ViewName;
  /** First and last step of the charts; null: all. */
  range: readonly [number, number] | null;
  follow: boolean;
  /** Weight of the past, 0 to 0.99. */
  smooth: number;
  log: boolean;
  axis: Axis;
  theme: "" | "light" | "dark";
  slice: string;
  step: number | null;
  find: string;
  value: HeatValue;
  lineage: string;
  /** Column that the table of slices is sorted by, `-` before it for descending; empty: as in the model. */
  sort: string;
  /** Titles of the charts that are shown as tables. */
  tables: readonly string[];
}

export const START: View = {
  job: "", view: "overview", range: null, follow: true, smooth: 0.6, log: false, axis: "step", theme: "",
  slice: "", step: null, find: "", value: "trust_ratio", lineage: "",
  sort: "", tables: [],
};
const VALUES: readonly HeatValue[] = ["trust_ratio", "weight_norm", "update_norm", "gradient_norm"];
const AXES: readonly Axis[] = ["step", "time", "samples"];

/** Only what differs from the start; readable by people. */
export function toHash(view: View): string {
  const out = new URLSearchParams();
  for (const key of ["job", "view", "axis", "theme", "slice", "find", "value", "lineage", "sort"] as const) {
    if (view[key] !== START[key]) out.set(key, view[key]);
  }
  if (view.range) out.set("range", `${view.range[0]}-${view.range[1]}`);
  if (view.smooth !== START.smooth) out.set("smooth", String(view.smooth));
  if (view.step !== null) out.set("step", String(view.step));
  if (!view.follow) out.set("follow", "0");
  if (view.log) out.set("log", "1");
  for (const title of view.tables) out.append("table", title);
  return out.toString();
}

/** What an address says; whatever makes no sense is as at the start. */
export function fromHash(hash: string): View {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const among = <T extends string>(key: string, known: readonly T[], other: T): T => {
    const value = given.get(key) as T | null;
    return value !== null && known.includes(value) ? value : other;
  };
  const range = /^(\d{1,15})-(\d{1,15})$/.exec(given.get("range") ?? "");
  const smooth = Number(given.get("smooth") ?? START.smooth);
  const step = /^\d{1,15}$/.exec(given.get("step") ?? "");
  return {
    job: given.get("job") ?? "",
    view: among("view", VIEWS, START.view),
    range: range && Number(range[1]) <= Number(range[2]) ? [Number(range[1]), Number(range[2])] : null,
    follow: given.get("follow") !== "0",
    smooth: smooth >= 0 && smooth <= 0.99 ? smooth : START.smooth,
    log: given.get("log") === "1",
    axis: among("axis", AXES, START.axis),
    theme: among("theme", ["", "light", "dark"] as const, ""),
    slice: given.get("slice") ?? "",
    step: step ? Number(step[0]) : null,
    find: given.get("find") ?? "",
    value: among("value", VALUES, START.value),
    lineage: given.get("lineage") ?? "",
    sort: given.get("sort") ?? "",
    tables: given.getAll("table"),
  };
}

/** Whether somebody who looks at `to` after `from` would want to go back: another job, view, slice or history. */
export function isOtherPlace(from: View, to: View): boolean {
  return from.job !== "" && (["job", "view", "slice", "lineage"] as const).some((key) => from[key] !== to[key]);
}

/** A range of the same width that ends at `last`. */
export function slid(range: readonly [number, number], last: number): [number, number] {
  return [Math.max(0, range[0] + last - range[1]), last];
}
