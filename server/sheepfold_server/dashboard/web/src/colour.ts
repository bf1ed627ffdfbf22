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

const SHADES = 256;

/** Colours of values of one kind, looked up: a pixel each, as ImageData holds it on a little-endian machine. */
export class Shades {
  private readonly table = new Uint32Array(SHADES + 1);
  private readonly none: number;

  /** `at`: the colour of a value; `least` and `most`: where the colours end, both above 0. */
  constructor(private readonly least: number, private readonly most: number, palette: Palette, at: (value: number) => Rgb) {
    for (let i = 0; i <= SHADES; i++) this.table[i] = pixel(at(10 ** (this.low + (i / SHADES) * this.width)));
    this.none = pixel(palette.none);
  }

  private get low(): number {
    return Math.log10(this.least);
  }

  private get width(): number {
    return Math.log10(this.most) - this.low || 1;
  }

  /** Fill `pixels` with the colours of `values`. */
  paint(values: Float32Array, pixels: Uint32Array): void {
    const { low, table, none } = this;
    const scale = SHADES / this.width;
    for (let i = 0; i < pixels.length; i++) {
      const value = values[i]!;
      const place = Math.round((Math.log10(value) - low) * scale);
      pixels[i] = value > 0 && value < Infinity ? table[place < 0 ? 0 : place > SHADES ? SHADES : place]! : none;
    }
  }
}

function pixel(colour: Rgb): number {
  return ((255 << 24) | (colour[2] << 16) | (colour[1] << 8) | colour[0]) >>> 0;
}

function mix(from: Rgb, to: Rgb, share: number): Rgb {
  return [0, 1, 2].map((i) => Math.round((from[i] ?? 0) + share * ((to[i] ?? 0) - (from[i] ?? 0)))) as unknown as Rgb;
}
