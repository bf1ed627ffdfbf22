/** Series that grow by step reports. Pure. */

import type { Band, Series, Step } from "../api";

/** A value of a step report by the name of its series; null where it has none. */
export function valueOf(step: Step, name: string): number | null {
  if (name.startsWith("metric:")) {
    return step.metrics.find((metric) => `metric:${metric.name}` === name)?.value ?? null;
  }
  const seconds = step.wait_seconds + step.prepare_seconds + step.apply_seconds;
  if (name === "step_seconds") return seconds;
  if (name === "update_seconds") return Math.max(0, step.apply_seconds - step.commit_seconds);
  if (name === "samples_per_second") return seconds > 0 ? step.samples / seconds : null;
  const value = (step as unknown as Record<string, unknown>)[name];
  if (typeof value === "boolean") return value ? 1 : 0;
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** A series with newer steps at its end; those it has already are left out. `at`: seconds, where a step does not tell. */
export function grown(series: Series, steps: readonly Step[], at: number): Series {
  const last = series.step[series.step.length - 1] ?? -1;
  const fresh = steps.filter((step) => step.step > last + series.steps_per_point - 1);
  if (!fresh.length) return series;
  let samples = series.samples[series.samples.length - 1] ?? 0;
  const counts = fresh.map((step) => (samples += step.is_skip ? 0 : step.samples));
  const bands = Object.entries(series.series).map(([name, band]): [string, Band] => {
    const values = fresh.map((step) => valueOf(step, name));
    return [name, { min: [...band.min, ...values], mean: [...band.mean, ...values], max: [...band.max, ...values] }];
  });
  return {
    ...series,
    step: [...series.step, ...fresh.map((step) => step.step)],
    seconds: [...series.seconds, ...fresh.map((step) => step.committed_at || at)],
    samples: [...series.samples, ...counts],
    series: Object.fromEntries(bands),
  };
}

/** A series without the points before a step; the same one where there are none. */
export function since(series: Series, step: number): Series {
  const first = series.step.findIndex((each) => each + series.steps_per_point > step);
  if (first <= 0) return series;
  const cut = <T>(values: readonly T[]): T[] => values.slice(first);
  return {
    ...series,
    step: cut(series.step), seconds: cut(series.seconds), samples: cut(series.samples),
    series: Object.fromEntries(Object.entries(series.series).map(([name, band]) => [name, { min: cut(band.min), mean: cut(band.mean), max: cut(band.max) }])),
  };
}

/** The value at a place; without a place, the newest there is. */
export function valueAt(values: readonly (number | null)[] | undefined, index: number | null): number | null {
  if (!values) return null;
  if (index !== null) return values[index] ?? null;
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i] ?? null;
  return null;
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
