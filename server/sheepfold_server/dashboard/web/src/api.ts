/** The dashboard's own API, under /api/v1: types as its OpenAPI document has them, and one way to read it. */

export interface Counts { leased: number; committed: number; leased_again: number; dropped: number; skipped: number; outstanding: number }
export interface JobSummary {
  job: string; state: string; why: string; version: number; stop_steps: number | null; kept_until_seconds: number | null;
}
export interface Change { from_step: number; author: string; text: string }
export interface Job extends JobSummary {
  stop_steps: number; lineage: string; open_step: number; slots_total: number; slots_admitted: number; waiting_for: string;
  samples_committed: number; samples_skipped: number; steps_skipped: number; best_version: number; best_value: number;
  changes: Change[]; counts: Counts;
}
export interface Worker {
  worker: string; host: string; pid: number; device: string; seconds_since_seen: number; slots_committed: number;
  samples_committed: number; holding: number; versions?: string; zone?: string; refused?: number;
  seconds_attached?: number; data_wait_share?: number | null; round_trip_seconds?: number;
  up_bytes_per_second?: number | null; down_bytes_per_second?: number | null; way?: string;
}
export interface Shard {
  shard: number; address: string; incarnation: number; is_connected: boolean; version: number;
  numeric_fingerprint: string; parameters: number; part_slots: number; memory_bytes?: number; queue?: number;
}
export interface Metric { name: string; value: number }
export interface Step {
  step: number; version: number; is_skip: boolean; skip_reason: string; learning_rate: number; loss: number | null;
  gradient_norm: number; clip_scale: number; samples: number; wait_seconds: number; prepare_seconds: number;
  apply_seconds: number; bytes_in: number; bytes_out: number; metrics: Metric[];
  commit_seconds: number; loss_scale: number; committed_at: number; staleness_steps: number;
}
export interface ShardStep { shard: number; fold_seconds: number; apply_seconds: number; bytes_in: number; bytes_out: number }
export interface Slice { slice: number; name: string; w_norm: number; u_norm: number; g_norm: number; trust_ratio: number; clamp: string }
export interface SliceRange extends Slice {
  trust_ratio_min: number; trust_ratio_max: number; trust_ratio_drift: number | null; steps_clamped: number;
  noise_scale: number | null;
}
export interface Slot {
  slot: number; worker: string; samples: number; weight: number; attempts: number; base_version: number;
  loss: number | null; host?: string; gradient_norm?: number; sample_start?: number; cosine?: number | null;
}
export interface StepDetail extends Step { counts: Counts; slices: Slice[]; slots: Slot[]; shards: ShardStep[] }
export interface Band { min: (number | null)[]; mean: (number | null)[]; max: (number | null)[] }
export interface Series {
  job: string; lineage: string; steps_per_point: number; step: number[]; seconds: number[]; samples: number[];
  series: Record<string, Band>; available: string[];
}
export interface Heatmap {
  steps_per_column: number; step: number[]; slices: string[]; value: string; data: string; clamped: string;
}
export interface JobEvent { id: number; step: number; seconds: number; kind: string; text: string; author: string }
export interface Alert {
  lineage: string; name: string; severity: string; since_step: number; since_seconds: number; ended_seconds: number | null;
  subject: string; text: string; remedy: string;
}
export interface Lineage { lineage: string; first_step: number; last_step: number; is_current: boolean }
export interface Schedule { step: number[]; learning_rate: number[]; slots: number[]; slot_samples: number[] }
export interface Held { shard: number; elements: number; bytes: number }
export interface Tensor { name: string; kind: string; shape: number[]; dtype: string; slices: number; shards: Held[] }
export interface Model { digest: string; parameters: number; shards: Held[]; tensors_total: number; tensors: Tensor[] }
export interface Forecast { eta_seconds: number | null; steps_left: number; goodput: number | null; waste: Record<string, number> }
export interface Stall { text: string; since_seconds: number; next_seconds: number | null }
export interface Throughput { steps_per_second: number; samples_per_second: number; bytes_in_per_second: number; bytes_out_per_second: number }

export const ROOT = "/api/v1";
export type Query = Record<string, string | number | null | undefined>;

/** Path and query of a route of a job. */
export function jobUrl(job: string, route: string, query: Query = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return `${ROOT}/jobs/${encodeURIComponent(job)}${route}${text ? `?${text}` : ""}`;
}

/** Whether only the history tells of the job, and not the coordinator. */
export function isKept(found: JobSummary): boolean {
  return found.state === "not listed" || found.state === "unknown";
}

/** The job that a page shows first: one that moves, else one that the coordinator has. */
export function firstOf(found: readonly JobSummary[]): JobSummary | undefined {
  return found.find((each) => each.state !== "ended" && !isKept(each)) ?? found.find((each) => !isKept(each)) ?? found[0];
}

/** What a request was refused with: the API's own sentence. */
export class Refused extends Error {
  constructor(readonly status: number, text: string) {
    super(text);
  }
}

/** JSON of a GET. Throws Refused with the API's sentence, or Error where nobody answers. */
export async function read<T>(url: string): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(url);
  } catch {
    throw new Error("the dashboard does not answer; is `sheepfold up` running?");
  }
  if (answer.ok) return (await answer.json()) as T;
  // What stands behind # stays in the address, and is there again after the login.
  if (answer.status === 401) location.assign(`/login${location.hash}`);
  const body: unknown = await answer.json().catch(() => null);
  const detail = (body as { detail?: unknown } | null)?.detail;
  throw new Refused(answer.status, typeof detail === "string" ? detail : `${answer.status} ${answer.statusText}`);
}
