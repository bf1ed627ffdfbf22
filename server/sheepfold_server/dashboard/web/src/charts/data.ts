/** Series of a view: read once for a range, then grown by what the stream brings. */

import { signal, type Signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { jobUrl, type Query, read, Refused, type Series } from "../api";
import { newSteps, stale } from "../live";
import { job, view } from "../state";
import { grown, since } from "./series";

export const POINTS = 800;
const READ_EVERY_MS = 3000;

export interface Loaded {
  series: Signal<Series | null>;
  /** Why there is none; empty while there is, or while it is being read. */
  why: Signal<string>;
  route: string;
  query: Query;
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
  const slides = follow && range !== null && !lineage;
  const full = { ...query, from: range?.[0] ?? null, to: slides ? null : (range?.[1] ?? null), lineage, points: POINTS };
  // A range that slides is read once in a while, and not with each of its steps: then only its width counts.
  const key = JSON.stringify([job.value, route, query, lineage, slides ? range[1] - range[0] : range]);
  const round = stale.value;
  useEffect(() => {
    const name = job.peek();
    if (!route || !name) {
      series.value = null;
      return;
    }
    let isCurrent = true;
    let readAt = performance.now();
    const load = (): Promise<void> => {
      readAt = performance.now();
      const from = slides ? view.peek().range?.[0] ?? null : full.from;
      return read<Series>(jobUrl(name, route, { ...full, from })).then(
        (found) => { if (isCurrent) { series.value = found; why.value = ""; } },
        (error: Error) => {
          // Nobody answers: what is drawn stays true, and the head of the page says so.
          if (!isCurrent || (series.peek() && !(error instanceof Refused))) return;
          series.value = null;
          why.value = error.message;
        },
      );
    };
    void load();
    const stop = newSteps.subscribe((steps) => {
      if (!steps.length || lineage || full.to !== null) return;
      const present = series.peek();
      if (grows && present) {
        const more = grown(present, steps, Date.now() / 1000);
        series.value = slides ? since(more, view.peek().range?.[0] ?? 0) : more;
      }
      // What a report does not hold (a slice, the noise scale) and what a long chart condenses comes from the API.
      if ((present?.step.length ?? 0) > 2 * POINTS || performance.now() - readAt > READ_EVERY_MS) void load();
    });
    return () => { isCurrent = false; stop(); };
  }, [key, round]);
  return { series, why, route, query: full };
}
