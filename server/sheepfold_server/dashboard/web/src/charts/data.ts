/** Series of a view: read once for a range, then grown by what the stream brings. */

import { signal, type Signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { jobUrl, type Query, read, type Series } from "../api";
import { newSteps, stale } from "../live";
import { change, job, view } from "../state";
import { grown } from "./series";

export const POINTS = 800;
const READ_EVERY_MS = 3000;

export interface Loaded {
  series: Signal<Series | null>;
  /** Why there is none; empty while there is, or while it is being read. */
  why: Signal<string>;
  route: string;
  query: Query;
  hasCsv: boolean;
}

/** The series of these names for the range of the view. */
export function useSeries(names: readonly string[]): Loaded {
  return useLoaded("/series", { names: names.join(",") }, true);
}

/** Ratio and norms of one slice. */
export function useSliceSeries(slice: string): Loaded {
  return useLoaded(slice ? `/slices/${slice.split("/").map(encodeURIComponent).join("/")}/series` : "", {}, false);
}

function useLoaded(route: string, query: Query, grows: boolean): Loaded {
  const { range, lineage, follow } = view.value;
  const series = useMemo(() => signal<Series | null>(null), []);
  const why = useMemo(() => signal(""), []);
  const from = range?.[0] ?? null;
  const to = range && !(follow && grows) ? range[1] : null;
  const full = { ...query, from, to, lineage, points: POINTS };
  const url = route && job.value ? jobUrl(job.value, route, full) : "";
  const round = stale.value;
  useEffect(() => {
    let isCurrent = true;
    if (!url) {
      series.value = null;
      return;
    }
    const load = (): Promise<void> => read<Series>(url).then(
      (found) => { if (isCurrent) { series.value = found; why.value = ""; } },
      (error: Error) => { if (isCurrent) { series.value = null; why.value = error.message; } },
    );
    void load();
    let readAt = performance.now();
    const stop = newSteps.subscribe((steps) => {
      const present = series.peek();
      if (!steps.length || !present || lineage || (to !== null)) return;
      if (grows) series.value = grown(present, steps, Date.now() / 1000);
      // What a report does not hold (a slice, the noise scale) and what a long chart condenses comes from the API.
      if (present.step.length > 2 * POINTS || performance.now() - readAt > READ_EVERY_MS) {
        readAt = performance.now();
        void load();
      }
    });
    return () => { isCurrent = false; stop(); };
  }, [url, round, grows, to]);
  useSliding(series, grows && follow && range !== null);
  return { series, why, route, query: full, hasCsv: true };
}

/** While the view follows, a zoomed range keeps its width and moves with the newest step. */
function useSliding(series: Signal<Series | null>, slides: boolean): void {
  const newest = series.value?.step[series.value.step.length - 1];
  useEffect(() => {
    const range = view.peek().range;
    if (slides && range && newest !== undefined && newest > range[1]) {
      change({ range: [range[0] + newest - range[1], newest] });
    }
  }, [newest, slides]);
}
