/** Numbers as people read them; every one says its unit. */

// Made once: toLocaleString with options makes a formatter at each call, 0.05 ms, and a table has thousands of cells.
const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const FOUR_DIGITS = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });

export function count(value: number): string {
  return WHOLE.format(Math.round(value));
}

/** Four significant digits, in powers of ten where it is very large or small; a dash for none. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return FOUR_DIGITS.format(Number(value.toPrecision(4)));
}

/** A clause of the API's as a sentence of its own. */
export function sentence(clause: string): string {
  return clause && `${clause[0]?.toUpperCase()}${clause.slice(1)}.`;
}

export function bytes(value: number): string {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]] as const) {
    if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

/** 0.23 ms, 950 ms, 4.2 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds: number): string {
  if (seconds > 0 && seconds < 0.00995) return `${Number((seconds * 1000).toPrecision(2))} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

export function percent(share: number | null | undefined): string {
  return share === null || share === undefined ? "–" : `${(share * 100).toFixed(1)} %`;
}

/** 2026-11-25 16:03:12 UTC */
export function utc(seconds: number): string {
  return `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** Times of an axis in UTC: as fine as their distance, with the day where it begins. `distance`: seconds. */
export function clocks(times: readonly number[], distance: number): string[] {
  let day = "";
  return times.map((time) => {
    const text = new Date(time * 1000).toISOString();
    if (distance >= 86_400) return text.slice(5, 10);
    const isNewDay = text.slice(0, 10) !== day;
    day = text.slice(0, 10);
    return text.slice(11, distance >= 60 ? 16 : 19) + (isNewDay ? `\n${text.slice(5, 10)} UTC` : "");
  });
}

export function ago(seconds: number, now: number): string {
  const age = now - seconds;
  return age < 1 ? "now" : `${duration(age)} ago`;
}
