/** What is looked at, as signals; the address follows. */

import { computed, effect, signal } from "@preact/signals";
import { fromHash, toHash, type View, type ViewName } from "./permalink";

export const view = signal<View>(fromHash(location.hash));
export const job = computed(() => view.value.job);
/** Unix seconds, each second: for texts such as "4 s ago". */
export const now = signal(Date.now() / 1000);
export const isHelpShown = signal(false);

const darkMedia = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(darkMedia.matches);
export const isDark = computed(() =>
  view.value.theme === "" ? systemIsDark.value : view.value.theme === "dark",
);

export function change(part: Partial<View>): void {
  view.value = { ...view.value, ...part };
}

export function go(name: ViewName, part: Partial<View> = {}): void {
  change({ ...part, view: name });
}

/** Keep signals, address and theme together; called once. */
export function start(): void {
  effect(() => {
    const hash = toHash(view.value);
    if (hash !== location.hash.replace(/^#/, "")) history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
  });
  effect(() => {
    document.documentElement.dataset.theme = isDark.value ? "dark" : "light";
  });
  addEventListener("hashchange", () => { view.value = fromHash(location.hash); });
  darkMedia.addEventListener("change", () => { systemIsDark.value = darkMedia.matches; });
  setInterval(() => { now.value = Date.now() / 1000; }, 1000);
}
