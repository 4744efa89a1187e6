import { en, type Key } from "./en.ts";

type Plural = { [K in Key]: K extends `${infer Base}#other` ? Base : never }[Key];

export function t(key: Key, values: Record<string, string | number> = {}): string {
  return en[key].replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
}

/** The form of `key` that fits `count`. */
export function plural(key: Plural, count: number): string {
  const form = new Intl.PluralRules("en").select(count) === "one" ? "one" : "other";
  return t(`${key}#${form}` as Key, { count });
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const UNITS = { second: "s", minute: "m", hour: "h", day: "d" };

/** "2 min. ago"; narrow: "2m". What has been is never said to come, however the clocks here and there differ. */
export function ago(iso: string, now: number, style: "short" | "narrow" = "short"): string {
  const [amount, unit] = inUnits(Math.min(0, secondsTo(iso, now)));
  return style === "short" ? relative.format(amount, unit) : `${Math.abs(amount)}${UNITS[unit]}`;
}

/** "in 8 min.", and "now" when that is over. */
export function until(iso: string, now: number): string {
  return relative.format(...inUnits(Math.max(0, secondsTo(iso, now))));
}

const secondsTo = (iso: string, now: number) => Math.round((Date.parse(iso) - now) / 1000);

const days = new Intl.DateTimeFormat("en", { weekday: "short", month: "short", day: "numeric" });

/** "Today", "Yesterday", "Fri, Nov 20": of the day that began then. */
export function dayOf(start: number, now = Date.now()): string {
  // Rounded: some days have 23 hours.
  const past = Math.round((start - new Date(now).setHours(0, 0, 0, 0)) / 86_400_000);
  const words = past < -1 ? days.format(start) : relative.format(past, "day");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const times = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hour12: false });
const dates = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short", hour12: false });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const money = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });
const sizes = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const clock = (iso: string) => times.format(new Date(iso));
export const date = (iso: string) => dates.format(new Date(iso));
export const tokens = (count: number) => compact.format(count);
export const dollars = (amount: number) => (amount < 0.01 ? "<$0.01" : money.format(amount));

/** "820 ms", "4.2 s", "3 min 10 s", "2 h 5 min". */
export function duration(ms: number): string {
  const seconds = ms / 1000;
  if (seconds < 1) return `${Math.round(ms)} ms`;
  if (seconds < 60) return `${sizes.format(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(size: number): string {
  if (size < 1024) return `${size} B`;
  return size < 1024 ** 2 ? `${sizes.format(size / 1024)} KiB` : `${sizes.format(size / 1024 ** 2)} MiB`;
}

function inUnits(seconds: number): [number, keyof typeof UNITS] {
  const size = Math.abs(seconds);
  if (size < 60) return [seconds, "second"];
  if (size < 3600) return [Math.round(seconds / 60), "minute"];
  if (size < 86_400) return [Math.round(seconds / 3600), "hour"];
  return [Math.round(seconds / 86_400), "day"];
}
