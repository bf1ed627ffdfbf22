/** Keys for what is done often; none while somebody types. */

import { change, go, isHelpShown, toggleTheme, view } from "./state";
import { VIEWS } from "./permalink";

export const KEYS: readonly (readonly [string, string])[] = [
  ["/", "find a layer by name"],
  ["f", "follow new steps, or stay where you are"],
  ["l", "logarithmic scale"],
  ["t", "light or dark"],
  ["1 – 6", "overview, layers, step, workers, shards, job"],
  ["0", "all steps (as a double click on a chart does)"],
  ["?", "this list"],
  ["Esc", "close it, or leave a field"],
];

export function onKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  if (event.key === "Escape") {
    isHelpShown.value = false;
    target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
  const place = Number(event.key);
  if (place >= 1 && place <= VIEWS.length) go(VIEWS[place - 1]!);
  else if (event.key === "0") change({ range: null });
  else if (event.key === "f") change({ follow: !view.value.follow });
  else if (event.key === "l") change({ log: !view.value.log });
  else if (event.key === "t") toggleTheme();
  else if (event.key === "?") isHelpShown.value = !isHelpShown.value;
  else if (event.key === "/") {
    go("layers");
    requestAnimationFrame(() => document.querySelector<HTMLInputElement>("#find")?.focus());
  } else return;
  event.preventDefault();
}
