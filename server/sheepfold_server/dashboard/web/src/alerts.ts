/** Alerts as a list: active ones first, then ended ones, each the newest first. */

import type { Alert } from "./api";

const ENDED_KEPT = 64;

/** The list with one that began or ended just now. What is told again takes the place of what was told before. */
export function withAlert(known: readonly Alert[], told: Alert): Alert[] {
  const others = known.filter((each) => each.name !== told.name || each.subject !== told.subject || each.since_seconds !== told.since_seconds);
  const all = [told, ...others];
  return [...all.filter(isActive), ...all.filter((each) => !isActive(each)).slice(0, ENDED_KEPT)];
}

export function isActive(alert: Alert): boolean {
  return alert.ended_seconds === null;
}
