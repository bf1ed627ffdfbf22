/** What is looked at, as signals; the address follows. */

import { computed, effect, signal } from "@preact/signals";
import { fromHash, isOtherPlace, toHash, type View, type ViewName } from "./permalink";

const WRITE_EVERY_MS = 250;
const THEME = "sheepfold-theme";

export const view = signal<View>(fromHash(location.hash));
export const job = computed(() => view.value.job);
/** Unix seconds, each second: for texts such as "4 s ago". */
export const now = signal(Date.now() / 1000);
export const isHelpShown = signal(false);

const darkMedia = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(darkMedia.matches);
/** As the address says, else as last chosen in this browser, else as the system is. */
export const isDark = computed(() => {
  const chosen = view.value.theme || rememberedTheme();
  return chosen === "" ? systemIsDark.value : chosen === "dark";
});

export function change(part: Partial<View>): void {
  view.value = { ...view.value, ...part };
}

export function go(name: ViewName, part: Partial<View> = {}): void {
  change({ ...part, view: name });
}

export function toggleTheme(): void {
  const theme = isDark.value ? "light" : "dark";
  try {
    localStorage.setItem(THEME, theme);
  } catch { /* a browser that keeps nothing: the address still holds it */ }
  change({ theme });
}

function rememberedTheme(): string {
  try {
    return localStorage.getItem(THEME) ?? "";
  } catch {
    return "";
  }
}

/** Keep signals, address and theme together; called once. */
export function start(): void {
  effect(() => {
    document.documentElement.dataset.theme = isDark.value ? "dark" : "light";
  });
  darkMedia.addEventListener("change", () => { systemIsDark.value = darkMedia.matches; });
  setInterval(() => { now.value = Date.now() / 1000; }, 1000);
  followInAddress();
}

/** Another place is a step back away; what only looks different takes the address over, a few times a second at most. */
function followInAddress(): void {
  let written = view.peek();
  let wroteAt = -WRITE_EVERY_MS;
  let timer = 0;
  const write = (): void => {
    clearTimeout(timer);
    timer = 0;
    wroteAt = performance.now();
    const hash = toHash(view.peek());
    const address = hash ? `#${hash}` : location.pathname;
    const isStep = isOtherPlace(written, view.peek());
    written = view.peek();
    if (hash === location.hash.slice(1)) return;
    if (isStep) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  };
  effect(() => {
    if (isOtherPlace(written, view.value) || performance.now() - wroteAt >= WRITE_EVERY_MS) write();
    else timer ||= window.setTimeout(write, WRITE_EVERY_MS);
  });
  addEventListener("hashchange", () => {
    clearTimeout(timer);
    timer = 0;
    written = fromHash(location.hash);
    view.value = written;
  });
}
