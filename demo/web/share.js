// The card for sharing: device, model, latency, and optionally the picture. This module sends nothing to any server.

import { drawDetections } from "./draw.js";
import { inMs } from "./meter.js";

const WIDTH = 1080, HEIGHT = 1350, EDGE = 72;
const DIM = "#b4c1dc";
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

/** Returns the name of this device, as far as the browser reveals it. */
export async function deviceName() {
  const agent = navigator.userAgent;
  let hints = {};
  try {
    hints = (await navigator.userAgentData?.getHighEntropyValues?.(["model", "platform"])) ?? {};
  } catch { /* the browser does not reveal it */ }
  const found = /iPhone|iPad|Macintosh|Windows|Android|CrOS|Linux/.exec(agent)?.[0] ?? "Device";
  const names = { Macintosh: "Mac", Windows: "Windows PC", Linux: "Linux PC", CrOS: "Chromebook", Android: "Android phone" };
  return hints.model || names[found] || found;
}

function browserName() {
  const agent = navigator.userAgent;
  const [, name, version] = /(Firefox|FxiOS|Edg|OPR|CriOS|SamsungBrowser|Chrome)\/(\d+)/.exec(agent)
    ?? /(Version)\/([\d.]+).*Safari/.exec(agent) ?? [];
  const names = { FxiOS: "Firefox", Edg: "Edge", OPR: "Opera", CriOS: "Chrome", SamsungBrowser: "Samsung Internet", Version: "Safari" };
  return name ? `${names[name] ?? name} ${version}` : "";
}

/** Draws the card. `shot` is {source, width, height, found, mirror} or null for a card without a picture. */
export function drawCard(canvas, { device, model, input, times, threads, shot }) {
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const pen = canvas.getContext("2d");
  fill(pen, [[0, "#18243f"], [1, "#0c1120"]], 0, HEIGHT);
  if (shot) {
    const high = drawShot(pen, shot);
    fill(pen, [[0, "rgb(12 17 32 / 0)"], [1, "rgb(12 17 32 / .96)"]], Math.min(high, HEIGHT) - 640, Math.min(high, 860));
  }
  const write = (text, y, size, weight, color, side = "left") => {
    pen.font = `${weight} ${size}px ${FONT}`;
    pen.fillStyle = color;
    pen.textAlign = side;
    pen.fillText(fit(pen, text, WIDTH - 2 * EDGE), side === "left" ? EDGE : WIDTH - EDGE, y);
  };
  const runs = [browserName(), threads > 1 ? `${threads} threads` : "1 thread", "WebAssembly"].filter(Boolean).join(" · ");
  write(inMs(times.p50), HEIGHT - 366, 176, 800, "#ffffff");
  write(`frame to boxes, median of ${times.count} frames`, HEIGHT - 310, 36, 400, DIM);
  write(device || "This device", HEIGHT - 226, 54, 700, "#ffffff");
  write(runs, HEIGHT - 176, 34, 400, DIM);
  write(model, HEIGHT - 106, 42, 600, "#ffffff");
  write(input, HEIGHT - 58, 34, 400, DIM);
  write("nanogfl", HEIGHT - 58, 46, 800, "#5cc8ff", "right");
}

/** Fills the whole card with a vertical gradient between two heights. */
function fill(pen, stops, from, to) {
  const paint = pen.createLinearGradient(0, from, 0, to);
  for (const [share, color] of stops) paint.addColorStop(share, color);
  pen.fillStyle = paint;
  pen.fillRect(0, 0, WIDTH, HEIGHT);
}

/** Draws the picture at the top, over the full width and at least 720 px high, cropped to the card; returns its height. */
function drawShot(pen, { source, width, height, found, mirror }) {
  const scale = Math.max(WIDTH / width, 720 / height);
  const to = { x: (WIDTH - width * scale) / 2, y: 0, width: width * scale, height: height * scale, mirror };
  pen.save();
  if (mirror) {
    pen.translate(WIDTH, 0);
    pen.scale(-1, 1);
  }
  pen.drawImage(source, to.x, to.y, to.width, to.height);
  pen.restore();
  drawDetections(pen, found, { width, height }, to, 2.2, false);
  return to.height;
}

function fit(pen, text, room) {
  let shown = text;
  while (shown.length > 1 && pen.measureText(shown).width > room) shown = `${shown.replace(/…$/, "").slice(0, -1)}…`;
  return shown;
}

/** Opens the system's share sheet if there is one, else saves the card. */
export async function shareCard(canvas, saveOnly) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const file = new File([blob], "nanogfl.png", { type: "image/png" });
  if (!saveOnly && canShare()) {
    try {
      await navigator.share({ files: [file], title: "nanogfl" });
      return;
    } catch (error) {
      if (error.name === "AbortError") return;
    }
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function canShare() {
  const probe = new File([new Uint8Array(1)], "nanogfl.png", { type: "image/png" });
  return Boolean(navigator.canShare?.({ files: [probe] }));
}
