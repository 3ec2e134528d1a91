// Numbers and times as people read them.

const sizes = ["B", "KiB", "MiB", "GiB", "TiB"];
export function bytes(count) {
  let size = 0;
  while (count >= 1024 && size < sizes.length - 1) { count /= 1024; size += 1; }
  return `${size && count < 10 ? count.toFixed(1) : Math.round(count)} ${sizes[size]}`;
}

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 && s < 600 ? ` ${s % 60} s` : ""}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function ago(unix, now = Date.now() / 1000) {
  const s = now - unix;
  return s < 45 ? "just now" : s < 7 * 86400 ? `${duration(s < 600 ? Math.round(s / 60) * 60 : s)} ago` : date(unix);
}

export const date = (unix) => new Date(unix * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
export const count = (number) => number.toLocaleString("en");
export const percent = (share, digits = 0) => `${(share * 100).toFixed(digits)} %`;
/** A difference of two shares, in percentage points. */
export const points = (share) => `${share > 0 ? "+" : share < 0 ? "−" : ""}${Math.abs(share * 100).toFixed(1)}`;
/** A difference of two losses. */
export const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`;

export function figure(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : value.toPrecision(3);
}

export const plural = (number, noun, several = `${noun}s`) => `${count(number)} ${number === 1 ? noun : several}`;
