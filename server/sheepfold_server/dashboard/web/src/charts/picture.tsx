/** The drawn part of a chart: made anew when its structure changes, drawn again when its numbers do and it is in sight. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import type { Series } from "../api";
import { events, newestStep } from "../live";
import { change, go, isDark, view } from "../state";
import { columns, type Format, type Line, type Look, type Marks, optionsOf, xOf } from "./plot";
import { indexOf } from "./series";

const HEIGHT = 220;

interface Props {
  title: string; series: Series; lines: readonly Line[]; stacked: boolean; smooths: boolean; format: Format; isLog: boolean; isPlan: boolean;
  at: { value: number | null }; keep: (plot: uPlot | null) => void;
}

export function Picture({ title, series, lines, stacked, smooths, format, isLog, isPlan, at, keep }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const present = useRef(series);
  const isInSight = useRef(true);
  const redraw = useRef(() => {});
  present.current = series;
  const log = isLog || view.value.log;
  const axis = isPlan ? "step" : view.value.axis;
  const look: Look = { lines, stacked, log, axis, format, smooth: smooths && !stacked ? view.value.smooth : 0 };
  const structure = JSON.stringify([look.lines, stacked, log, axis, look.smooth > 0, isDark.value]);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const style = getComputedStyle(element);
    const colours = { ink: style.getPropertyValue("--quiet"), line: style.getPropertyValue("--line") };
    const step = (index: number): number => present.current.step[Math.max(0, Math.min(index, present.current.step.length - 1))] ?? 0;
    const made = new uPlot(
      optionsOf(look, { width: element.clientWidth, height: HEIGHT }, colours, {
        onZoom: isPlan ? undefined : (first, last) => change({ range: [step(first), Math.max(step(first), step(last))], follow: false }),
        onPick: isPlan ? undefined : (index) => go("step", { step: step(index) }),
        onReset: () => change({ range: null }),
        onCursor: (index) => { at.value = index; },
      }, () => marksOf(present.current, axis, isPlan)),
      columns(present.current, look), element,
    );
    plot.current = made;
    keep(made);
    const sizes = new ResizeObserver(() => {
      if (element.clientWidth && element.clientWidth !== made.width) made.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    const sight = new IntersectionObserver((entries) => {
      isInSight.current = entries[entries.length - 1]?.isIntersecting ?? true;
      redraw.current();
    }, { rootMargin: "200px" });
    sizes.observe(element);
    sight.observe(element);
    return () => { sizes.disconnect(); sight.disconnect(); made.destroy(); plot.current = null; keep(null); at.value = null; };
  }, [structure]);
  const seen = events.value.length;
  const reached = isPlan ? newestStep.value?.step : null;
  useEffect(() => {
    redraw.current = () => {
      if (!isInSight.current) return;
      plot.current?.setData(columns(series, look));
      redraw.current = () => {};
    };
    redraw.current();
  }, [series, look.smooth, seen, reached, structure]);
  return <div ref={place} class="plot" role="img" aria-label={`${title}, ${series.step.length} points from step ${series.step[0] ?? 0}; the table has the numbers`} />;
}

function marksOf(series: Series, axis: Look["axis"], isPlan: boolean): Marks {
  const xs = xOf(series, axis);
  const first = series.step[0] ?? 0;
  const last = (series.step[series.step.length - 1] ?? 0) + series.steps_per_point;
  const shown = events.peek().filter((event) => event.step >= first && event.step < last);
  if (isPlan) return { events: shown.map((event) => event.step), present: newestStep.peek()?.step ?? null };
  return { events: shown.map((event) => xs[indexOf(series.step, event.step)] ?? 0), present: null };
}
