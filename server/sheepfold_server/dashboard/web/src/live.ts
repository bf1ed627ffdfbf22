/** What happens, as it happens: one stream per tab; the browser connects again and names what it had last. */

import { computed, effect, signal } from "@preact/signals";
import { withAlert } from "./alerts";
import { type Alert, firstOf, isKept, type Job, type JobEvent, type JobSummary, read, ROOT, jobUrl, type Shard, type Step, type Worker } from "./api";
import { count } from "./format";
import { slid } from "./permalink";
import { change, job, view } from "./state";

export const jobs = signal<JobSummary[]>([]);
const areJobsRead = signal(false);
export const status = signal<Job | null>(null);
/** The job where only the history tells of it; null while the coordinator does. */
export const kept = computed(() => (status.value ? null : jobs.value.find((each) => each.job === job.value && isKept(each)) ?? null));
/** Whether there is no job of the name that the address gives. */
export const isMissing = computed(() => areJobsRead.value && job.value !== "" && !status.value && !jobs.value.some((each) => each.job === job.value));
export const workers = signal<Worker[]>([]);
export const shards = signal<Shard[]>([]);
export const events = signal<JobEvent[]>([]);
export const alerts = signal<Alert[]>([]);
/** The newest steps that came by the stream, as one batch. */
export const newSteps = signal<Step[]>([]);
export const newestStep = signal<Step | null>(null);
/** Counts up when charts must be read again from the API. */
export const stale = signal(0);
/** Why nothing is heard; empty while all is well. */
export const trouble = signal("");
/** Whether the stream is open now. */
export const isLive = signal(false);

const EVENTS_KEPT = 500;
const AGAIN_MS = 2000;
let stream: EventSource | null = null;
let again = 0;

export function start(): void {
  void readJobs();
  setInterval(() => void readJobs(), 5000);
  effect(() => { connect(job.value); });
  effect(() => { slide(newestStep.value); });
  effect(() => {
    const told = status.value;
    document.title = told ? `${told.job} ${count(Math.max(0, told.version))}/${count(told.stop_steps)} – sheepfold` : kept.value ? `${kept.value.job} ${kept.value.state} – sheepfold` : "sheepfold";
  });
}

/** While the view follows, a zoomed range keeps its width and moves with the newest step. */
function slide(newest: Step | null): void {
  const { range, follow, lineage } = view.peek();
  if (newest && range && follow && !lineage && newest.step > range[1]) change({ range: slid(range, newest.step) });
}

async function readJobs(): Promise<void> {
  try {
    jobs.value = await read<JobSummary[]>(`${ROOT}/jobs`);
    areJobsRead.value = true;
    const ready = await fetch("/readyz");
    trouble.value = ready.ok ? "" : ((await ready.json()) as { status: string }).status;
    const first = firstOf(jobs.value);
    if (!job.peek() && first) change({ job: first.job });
    const shown = jobs.value.find((each) => each.job === job.peek());
    if (shown && isKept(shown) && status.peek()) leave();
    else if (shown && !isKept(shown) && !status.peek()) void readOnce(shown.job);
  } catch (error) {
    trouble.value = (error as Error).message;
  }
}

/** The coordinator does not have the job any more: what it alone can tell is gone. */
function leave(): void {
  status.value = null;
  workers.value = [];
  shards.value = [];
}

function connect(name: string): void {
  stream?.close();
  clearTimeout(again);
  isLive.value = false;
  leave();
  events.value = [];
  alerts.value = [];
  newestStep.value = null;
  if (!name) return;
  void readOnce(name);
  listen(name);
}

function listen(name: string): void {
  stream = new EventSource(`${ROOT}/events?job=${encodeURIComponent(name)}`);
  stream.onopen = () => { isLive.value = true; };
  stream.onerror = () => {
    isLive.value = false;
    // A browser connects again by itself, but never after a refusal: such as that of a dashboard which was started a
    // moment ago and has not heard of the job yet. A new stream has no Last-Event-ID, so all is read again.
    if (stream?.readyState !== EventSource.CLOSED) return;
    again = window.setTimeout(() => { stale.value++; void readOnce(name); listen(name); }, AGAIN_MS);
  };
  on<Job & { workers: Worker[]; shards: Shard[] }>("status", (told) => {
    if (status.peek() && status.peek()!.lineage !== told.lineage) stale.value++;
    status.value = told;
    workers.value = told.workers;
    shards.value = told.shards;
  });
  on<{ steps: Step[] }>("step", (told) => {
    newSteps.value = told.steps;
    newestStep.value = told.steps[told.steps.length - 1] ?? newestStep.peek();
  });
  on<JobEvent>("event", (told) => {
    if (!events.peek().some((known) => known.id === told.id)) events.value = [...events.peek(), told].slice(-EVENTS_KEPT);
  });
  on<Alert>("alert", (told) => { alerts.value = withAlert(alerts.peek(), told); });
  on<unknown>("gap", () => { stale.value++; });
}

function on<T>(name: string, take: (told: T) => void): void {
  stream?.addEventListener(name, (message) => take(JSON.parse((message as MessageEvent<string>).data) as T));
}

/** What stands now; the stream tells what comes. */
async function readOnce(name: string): Promise<void> {
  const quietly = async <T>(url: string, take: (found: T) => void): Promise<void> => {
    try {
      const found = await read<T>(url);
      if (job.peek() === name) take(found);
    } catch { /* the view that needs it says so */ }
  };
  const ofCoordinator = async (): Promise<void> => {
    await quietly<Job | JobSummary>(jobUrl(name, ""), (found) => { if (!isKept(found)) status.value = found as Job; });
    if (!status.peek()) return;
    await Promise.all([
      quietly<Worker[]>(jobUrl(name, "/workers"), (found) => { workers.value = found; }),
      quietly<Shard[]>(jobUrl(name, "/shards"), (found) => { shards.value = found; }),
    ]);
  };
  await Promise.all([
    ofCoordinator(),
    quietly<{ events: JobEvent[] }>(jobUrl(name, "/events", { limit: EVENTS_KEPT }), (found) => { events.value = found.events; }),
    quietly<{ alerts: Alert[] }>(jobUrl(name, "/alerts"), (found) => { alerts.value = found.alerts; }),
    quietly<Step[]>(jobUrl(name, "/steps", { limit: 1 }), (found) => { newestStep.value = found[0] ?? null; }),
  ]);
}
