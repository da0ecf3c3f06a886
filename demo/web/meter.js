// Latency statistics of the last frames.

const KEPT = 120, WARM_UP = 3;

export class Meter {
  #times = [];
  #stamps = [];
  frames = 0;

  /** Adds the time of a run from pixels to boxes, in ms; the first few runs, which fill caches, are left out. */
  add(ms) {
    this.frames += 1;
    this.#stamps.push(performance.now());
    if (this.#stamps.length > 31) this.#stamps.shift();
    if (this.frames <= WARM_UP) return;
    this.#times.push(ms);
    if (this.#times.length > KEPT) this.#times.shift();
  }

  reset() {
    this.#times = [];
    this.#stamps = [];
    this.frames = 0;
  }

  get times() { return this.#times; }
  get last() { return this.#times.at(-1) ?? NaN; }
  get p50() { return quantile(this.#times, 0.5); }
  get p90() { return quantile(this.#times, 0.9); }

  /** Frames per second over the last 31 frames. */
  get fps() {
    const stamps = this.#stamps;
    return stamps.length < 2 ? NaN : (1000 * (stamps.length - 1)) / (stamps.at(-1) - stamps[0]);
  }
}

function quantile(values, share) {
  if (!values.length) return NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const at = share * (sorted.length - 1), low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

/** Formats a time as "8.4 ms", "37 ms" or "1.2 s"; NaN becomes a dash. */
export function inMs(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return Number.isFinite(ms) ? `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms` : "–";
}

/** Draws a bar for each of the last frames, and the median as a line. */
export function drawBars(canvas, times) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const step = 5, shown = times.slice(-Math.floor(width / step));
  const top = Math.max(1, quantile(times, 0.95) * 1.25);
  pen.fillStyle = style.color;
  shown.forEach((ms, i) => {
    const tall = Math.max(2, Math.min(1, ms / top) * height);
    pen.globalAlpha = 0.35 + (0.65 * (i + 1)) / shown.length;
    pen.fillRect(width - (shown.length - i) * step, height - tall, step - 2, tall);
  });
  pen.globalAlpha = 1;
  if (!shown.length) return;
  const line = height - Math.min(1, quantile(times, 0.5) / top) * height;
  pen.strokeStyle = style.getPropertyValue("--ink");
  pen.setLineDash([3, 3]);
  pen.beginPath();
  pen.moveTo(0, line);
  pen.lineTo(width, line);
  pen.stroke();
}
