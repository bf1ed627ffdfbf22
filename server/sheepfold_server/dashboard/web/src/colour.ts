/** Colours of the heat map, and its numbers as they travel. */

/** float32, little-endian, from base64. */
export function decodeFloats(text: string): Float32Array {
  return new Float32Array(decodeBytes(text).buffer);
}

export function decodeBytes(text: string): Uint8Array<ArrayBuffer> {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

export type Rgb = readonly [number, number, number];
export interface Palette { low: Rgb; middle: Rgb; high: Rgb; none: Rgb }
export const LIGHT: Palette = { low: [33, 102, 172], middle: [243, 242, 238], high: [178, 24, 43], none: [216, 218, 214] };
export const DARK: Palette = { low: [92, 172, 238], middle: [38, 44, 48], high: [244, 109, 90], none: [64, 70, 74] };

const SAMPLED = 4096;

/** How many powers of ten around 1 the colours span: 95 of 100 values are within, at least a factor of 2. */
export function span(values: Float32Array): number {
  const logs: number[] = [];
  const every = Math.max(1, Math.floor(values.length / SAMPLED));
  for (let i = 0; i < values.length; i += every) {
    const value = values[i] ?? NaN;
    if (value > 0 && Number.isFinite(value)) logs.push(Math.abs(Math.log10(value)));
  }
  if (!logs.length) return 0.3;
  logs.sort((a, b) => a - b);
  return Math.min(6, Math.max(0.3, logs[Math.min(logs.length - 1, Math.floor(0.95 * logs.length))] ?? 0.3));
}

/** The colour of a ratio: `middle` at 1, `low` and `high` at 10^-range and 10^range, log scale between. */
export function diverging(value: number, range: number, palette: Palette): Rgb {
  if (!(value > 0) || !Number.isFinite(value)) return palette.none;
  const place = Math.max(-1, Math.min(1, Math.log10(value) / range));
  return mix(palette.middle, place < 0 ? palette.low : palette.high, Math.abs(place));
}

/** The colour of a size between `least` and `most`, log scale. */
export function sequential(value: number, least: number, most: number, palette: Palette): Rgb {
  if (!(value > 0) || !Number.isFinite(value)) return palette.none;
  const width = Math.log10(most) - Math.log10(least);
  const place = width > 0 ? (Math.log10(value) - Math.log10(least)) / width : 0.5;
  return mix(palette.middle, palette.low, Math.max(0, Math.min(1, place)));
}

const INFINITE_BITS = 0x7f800000;

/**
 * Colours of values of one kind, looked up: a pixel each, as ImageData holds it on a little-endian machine.
 *
 * The upper half of a float32 above 0, read as an integer, rises with its logarithm in 128 steps per power of two, so
 * that it is the place in the table and no logarithm is taken per value.
 */
export class Shades {
  private readonly table: Uint32Array;
  private readonly first: number;
  private readonly none: number;

  /** `at`: the colour of a value; `least` and `most`: where the colours end, both above 0. */
  constructor(least: number, most: number, palette: Palette, at: (value: number) => Rgb) {
    const value = new Float32Array([least, most]);
    const bits = new Uint32Array(value.buffer);
    const [first, last] = [bits[0]! >>> 16, bits[1]! >>> 16];
    this.first = first;
    this.table = new Uint32Array(last - first + 1);
    for (let i = 0; i < this.table.length; i++) {
      bits[0] = (first + i) << 16;
      this.table[i] = pixel(at(value[0]!));
    }
    this.none = pixel(palette.none);
  }

  /** Fill `pixels` with the colours of `values`. */
  paint(values: Float32Array, pixels: Uint32Array): void {
    const { first, table, none } = this;
    const top = table.length - 1;
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    for (let i = 0; i < pixels.length; i++) {
      const place = (bits[i]! >>> 16) - first;
      const isNumber = bits[i]! > 0 && bits[i]! < INFINITE_BITS;
      pixels[i] = isNumber ? table[place < 0 ? 0 : place > top ? top : place]! : none;
    }
  }
}

function pixel(colour: Rgb): number {
  return ((255 << 24) | (colour[2] << 16) | (colour[1] << 8) | colour[0]) >>> 0;
}

function mix(from: Rgb, to: Rgb, share: number): Rgb {
  return [0, 1, 2].map((i) => Math.round((from[i] ?? 0) + share * ((to[i] ?? 0) - (from[i] ?? 0)))) as unknown as Rgb;
}

/** Where the colours end, and what is between them. */
export interface Scale { least: number; most: number; shades: Shades }

export function scaleOf(values: Float32Array, isRatio: boolean, dark: boolean): Scale {
  const palette = dark ? DARK : LIGHT;
  if (isRatio) {
    const range = span(values);
    const [least, most] = [10 ** -range, 10 ** range];
    return { least, most, shades: new Shades(least, most, palette, (value) => diverging(value, range, palette)) };
  }
  let least = Infinity;
  let most = 0;
  for (const value of values) {
    if (value > 0 && value < Infinity) {
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
  }
  if (!(most > 0)) least = most = 1;
  return { least, most, shades: new Shades(least, most, palette, (value) => sequential(value, least, most, palette)) };
}
