import { describe, expect, it } from "vitest";
import { withAlert } from "../src/alerts";
import { type Alert, firstOf, type JobSummary, type Series, type Step } from "../src/api";
import { grown, indexOf, since, valueAt, valueOf } from "../src/charts/series";
import { decodeBytes, decodeFloats, DARK, diverging, LIGHT, scaleOf, sequential, Shades, span } from "../src/colour";
import { bytes, clocks, duration, number, percent, sentence } from "../src/format";
import { fromHash, isOtherPlace, slid, START, toHash } from "../src/permalink";
import { columns, type Look } from "../src/charts/plot";
import { smoothed } from "../src/smooth";

describe("smoothing", () => {
  it("has no bias at its start: a constant stays what it is", () => {
    expect(smoothed([3, 3, 3], 0.9).map((value) => value?.toFixed(12))).toEqual(["3.000000000000", "3.000000000000", "3.000000000000"]);
  });
  it("is the weighted mean of what came", () => {
    const [, second] = smoothed([0, 1], 0.5);
    expect(second).toBeCloseTo((0.5 * 1) / 0.75);
  });
  it("leaves gaps and does nothing at 0", () => {
    expect(smoothed([1, null, 3], 0.5)[1]).toBeNull();
    expect(smoothed([1, null, 3], 0)).toEqual([1, null, 3]);
  });
});

describe("the scale of the heat map", () => {
  it("is even around a ratio of 1, and from the least to the most of a norm", () => {
    const ratio = scaleOf(Float32Array.of(0.1, 1, 2), true, false);
    expect(ratio.least * ratio.most).toBeCloseTo(1);
    const norm = scaleOf(Float32Array.of(0.5, NaN, 8), false, true);
    expect([norm.least, norm.most]).toEqual([0.5, 8]);
  });
});

describe("the permalink", () => {
  it("of the start is empty, and holds every part of a view", () => {
    expect(toHash(START)).toBe("");
    const view = { ...START, job: "bert-large", view: "layers" as const, range: [10, 500] as const, follow: false, smooth: 0.9, log: true,
      axis: "time" as const, theme: "dark" as const, slice: "encoder.0/weight", step: 7, find: "enc", value: "weight_norm" as const, lineage: "abc",
      sort: "-trust_ratio", tables: ["Loss", "Trust ratio of encoder.0/weight"] };
    expect(fromHash(`#${toHash(view)}`)).toEqual(view);
  });
  it("tells another place, to which one goes back, from another look at the same", () => {
    const view = { ...START, job: "bert" };
    expect(isOtherPlace(view, { ...view, view: "layers" })).toBe(true);
    expect(isOtherPlace(view, { ...view, smooth: 0, follow: false, range: [1, 2], tables: ["Loss"] })).toBe(false);
    expect(isOtherPlace(START, view)).toBe(false);
  });
  it("slides a range by its end and keeps its width", () => {
    expect(slid([10, 30], 35)).toEqual([15, 35]);
  });
  it("takes nothing that makes no sense", () => {
    expect(fromHash("#view=x&range=9-3&smooth=2&axis=y&step=-1&value=z")).toEqual(START);
  });
});

describe("colours", () => {
  it("are the middle at 1 and the ends at the range, on both sides", () => {
    expect(diverging(1, 2, LIGHT)).toEqual(LIGHT.middle);
    expect(diverging(100, 2, LIGHT)).toEqual(LIGHT.high);
    expect(diverging(0.001, 2, DARK)).toEqual(DARK.low);
  });
  it("show that there is no value", () => {
    for (const value of [NaN, 0, -1, Infinity]) expect(diverging(value, 1, LIGHT)).toEqual(LIGHT.none);
    expect(sequential(NaN, 1, 2, LIGHT)).toEqual(LIGHT.none);
  });
  it("span at least a factor of 2 and 95 of 100 values", () => {
    expect(span(new Float32Array([1, 1.1]))).toBeCloseTo(0.3);
    expect(span(new Float32Array([...Array<number>(95).fill(10), ...Array<number>(5).fill(1e9)]))).toBeCloseTo(6);
    expect(span(new Float32Array([...Array<number>(96).fill(10), ...Array<number>(4).fill(1e9)]))).toBeCloseTo(1);
  });
});

describe("shades", () => {
  it("paint each value with its colour, and what is no number as none", () => {
    const shades = new Shades(0.01, 100, LIGHT, (value) => diverging(value, 2, LIGHT));
    const pixels = new Uint32Array(5);
    shades.paint(new Float32Array([1, 100, 1e-9, NaN, 0]), pixels);
    const rgb = (pixel: number) => [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];
    expect([...pixels].map(rgb)).toEqual([LIGHT.middle, LIGHT.high, LIGHT.low, LIGHT.none, LIGHT.none].map((colour) => [...colour]));
    expect([...pixels].map((pixel) => pixel >>> 24)).toEqual([255, 255, 255, 255, 255]);
  });
  it("are within 2 of 255 of the colour that is computed", () => {
    const values = Float32Array.from({ length: 500 }, (_, i) => 10 ** (i / 100 - 2.5));
    const pixels = new Uint32Array(values.length);
    new Shades(10 ** -0.5, 10 ** 0.5, DARK, (value) => diverging(value, 0.5, DARK)).paint(values, pixels);
    const off = [...pixels].flatMap((pixel, i) => diverging(values[i] ?? NaN, 0.5, DARK).map((part, channel) => Math.abs(part - ((pixel >> (8 * channel)) & 255))));
    expect(Math.max(...off)).toBeLessThanOrEqual(2);
  });
});

describe("the heat map", () => {
  it("is float32, little-endian, in base64", () => {
    const text = btoa(String.fromCharCode(...new Uint8Array(new Float32Array([1, 0.5, NaN]).buffer)));
    expect([...decodeFloats(text)]).toEqual([1, 0.5, NaN]);
    expect([...decodeBytes(btoa("\u0001\u0000"))]).toEqual([1, 0]);
  });
});

const step = (n: number, more: Partial<Step> = {}): Step => ({
  step: n, version: n + 1, is_skip: false, skip_reason: "", learning_rate: 0.1, loss: 1 / (n + 1), gradient_norm: 1, clip_scale: 1, samples: 8,
  wait_seconds: 0.5, prepare_seconds: 0.25, apply_seconds: 0.25, bytes_in: 1, bytes_out: 1, metrics: [{ name: "acc", value: 0.5 }],
  commit_seconds: 0, loss_scale: 0, committed_at: 0, staleness_steps: 0, ...more,
});

describe("a series that grows", () => {
  const series: Series = {
    job: "j", lineage: "l", steps_per_point: 1, step: [0], seconds: [1], samples: [8], available: [],
    series: { loss: { min: [1], mean: [1], max: [1] }, "metric:acc": { min: [0.5], mean: [0.5], max: [0.5] } },
  };
  it("takes new steps once, skipped ones without their samples", () => {
    const more = grown(series, [step(0), step(1), step(2, { is_skip: true, loss: null })], 9);
    expect(more.step).toEqual([0, 1, 2]);
    expect(more.samples).toEqual([8, 16, 16]);
    expect(more.series["loss"]?.mean).toEqual([1, 0.5, null]);
    expect(more.series["metric:acc"]?.max).toEqual([0.5, 0.5, 0.5]);
    expect(grown(more, [step(1)], 9)).toBe(more);
  });
  it("tells the time of a step where the report does, else that of its arrival", () => {
    expect(grown(series, [step(1, { committed_at: 7 }), step(2)], 9).seconds).toEqual([1, 7, 9]);
  });
  it("loses at its start what slid out of sight, but no point that still reaches into it", () => {
    const more = grown(series, [step(1), step(2)], 9);
    expect(since(more, 1).step).toEqual([1, 2]);
    expect(since(more, 1).series["loss"]?.mean).toEqual([0.5, 1 / 3]);
    expect(since({ ...more, step: [0, 10, 20], steps_per_point: 10 }, 15).step).toEqual([10, 20]);
    expect(since(more, 0)).toBe(more);
  });
  it("has a value at a place, and without one the newest there is", () => {
    expect([valueAt([1, null, 3, null], 1), valueAt([1, null, 3, null], null), valueAt([], null), valueAt(undefined, 0)]).toEqual([null, 3, null, null]);
  });
  it("is searched by step", () => {
    expect([0, 9, 10, 11, 99].map((at) => indexOf([0, 10, 20], at))).toEqual([0, 0, 1, 1, 2]);
  });
  it("computes what a report does not name", () => {
    expect(valueOf(step(0), "step_seconds")).toBe(1);
    expect(valueOf(step(0), "samples_per_second")).toBe(8);
    expect(valueOf(step(0), "metric:none")).toBeNull();
  });
});

describe("columns of a chart", () => {
  const bands = (mean: (number | null)[]) => ({ min: mean, mean, max: mean });
  const series: Series = {
    job: "j", lineage: "l", steps_per_point: 1, step: [0, 1], seconds: [5, 6], samples: [8, 16], available: [],
    series: { wait: bands([1, 2]), apply: bands([0.5, null]) },
  };
  const look: Look = {
    lines: ["wait", "apply"].map((name) => ({ name, label: name, colour: "#000000" })), stacked: false, log: false, axis: "step", smooth: 0, format: number,
  };
  it("stand on top of each other where they are stacked", () => {
    expect(columns(series, { ...look, stacked: true, axis: "samples" })).toEqual([[8, 16], [1, 2], [1.5, 2]]);
  });
  it("are range, raw and smoothed line otherwise, without what a log scale cannot show", () => {
    const found = columns({ ...series, series: { wait: bands([0, 2]) } }, { ...look, lines: look.lines.slice(0, 1), log: true, axis: "time" });
    expect(found).toEqual([[5, 6], [null, 2], [null, 2], [null, 2], [null, 2]]);
  });
});

describe("numbers for people", () => {
  it("have four digits, and a dash for none", () => {
    expect([number(1234.567), number(0.0001234), number(null), number(0)]).toEqual(["1,235", "1.23e-4", "–", "0"]);
  });
  it("are times in UTC on an axis, with the day where it begins", () => {
    const midnight = Date.UTC(2026, 10, 25) / 1000;
    expect(clocks([midnight - 60, midnight, midnight + 60], 60)).toEqual(["23:59\n11-24 UTC", "00:00\n11-25 UTC", "00:01"]);
    expect(clocks([midnight + 5], 5)).toEqual(["00:00:05\n11-25 UTC"]);
    expect(clocks([midnight], 86_400)).toEqual(["11-25"]);
  });
  it("show durations below a hundredth of a second", () => {
    expect([duration(0.00023), duration(0.0099), duration(0)]).toEqual(["0.23 ms", "9.9 ms", "0 ms"]);
  });
  it("name their units", () => {
    expect([bytes(999), bytes(2_000_000), duration(0.95), duration(75), duration(90_000), percent(0.123)]).toEqual([
      "999 B", "2.0 MB", "950 ms", "1 min 15 s", "1 d 1 h", "12.3 %",
    ]);
  });
});

describe("alerts", () => {
  const alert = (subject: string, since: number, ended: number | null = null): Alert => ({
    lineage: "abc", name: "SlicePinned", severity: "warning", since_step: since, since_seconds: since, ended_seconds: ended, subject, text: "", remedy: "",
  });
  const told = (list: Alert[]): [string, number, number | null][] => list.map((each) => [each.subject, each.since_seconds, each.ended_seconds]);

  it("that end go behind the active ones, and take the place of what was told before", () => {
    expect(told(withAlert([alert("b", 2), alert("a", 1)], alert("b", 2, 9)))).toEqual([["a", 1, null], ["b", 2, 9]]);
  });
  it("that come back leave those of the same subject that ended in the list", () => {
    expect(told(withAlert([alert("a", 1, 5)], alert("a", 7)))).toEqual([["a", 7, null], ["a", 1, 5]]);
  });
  it("that ended are bounded", () => {
    const many = Array.from({ length: 64 }, (_, i) => alert(`s${i}`, i, 100 - i));
    expect(withAlert(many, alert("newest", 200, 201)).map((each) => each.subject)).toEqual(["newest", ...many.slice(0, 63).map((each) => each.subject)]);
  });
});

describe("the job that is shown first", () => {
  const jobs = (...states: string[]): JobSummary[] =>
    states.map((state, i) => ({ job: `job${i}`, state, why: "", version: 1, stop_steps: 9, kept_until_seconds: null }));

  it("is one that goes on, before one that ended, before one that only the history tells of", () => {
    expect(firstOf(jobs("not listed", "ended", "paused"))?.job).toBe("job2");
    expect(firstOf(jobs("unknown", "ended", "not listed"))?.job).toBe("job1");
    expect(firstOf(jobs("not listed", "unknown"))?.job).toBe("job0");
    expect(firstOf([])).toBeUndefined();
  });
});

describe("a clause of the API", () => {
  it("becomes a sentence", () => {
    expect(sentence("the coordinator does not list this job")).toBe("The coordinator does not list this job.");
    expect(sentence("")).toBe("");
  });
});
