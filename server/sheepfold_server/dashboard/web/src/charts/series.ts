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

/** A series with newer steps at its end; those it has already are left out. */
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
    seconds: [...series.seconds, ...fresh.map(() => at)],
    samples: [...series.samples, ...counts],
    series: Object.fromEntries(bands),
  };
}
