// The display: the picture with its boxes, the list of detections, the statistics, and error messages.

import { classColor, drawDetections } from "./draw.js";
import { drawBars, inMs } from "./meter.js";

const SPEAK_EVERY = 2500; // ms; a screen reader that reads each frame's list would never stop

export const at = (id) => document.getElementById(id);

let spoken = "", spokenAt = 0;

/** Fits the stage to pictures of this size. */
export function showSize(width, height) {
  at("stage").style.setProperty("--ratio", String(width / height));
}

/** Shows the video or the still picture, or neither. */
export function showSource(source, mirror = false) {
  at("video").hidden = source !== "camera";
  at("still").hidden = source !== "picture";
  at("empty").hidden = Boolean(source);
  at("video").classList.toggle("mirror", mirror);
  if (source !== "camera") at("pill").hidden = true;
}

/** Returns the detections above the threshold as views of the same arrays, whose first entries are the best. */
export function above(found, score, names) {
  let count = 0;
  while (count < found.scores.length && found.scores[count] > score) count += 1;
  return {
    boxes: found.boxes.subarray(0, 4 * count),
    scores: found.scores.subarray(0, count),
    labels: found.labels.subarray(0, count),
    sigma: found.sigma?.subarray(0, 4 * count) ?? null,
    names,
  };
}

/** Draws over the picture and lists what was found. */
export function showFound(found, size, { mirror = false, soft = false } = {}) {
  const canvas = at("overlay"), ratio = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  drawDetections(pen, found, size, { x: 0, y: 0, width, height, mirror }, ratio, soft);
  const classes = listed(found);
  showList(classes);
  speak(classes, canvas);
}

export function clearFound() {
  const canvas = at("overlay");
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  showList([]);
}

/** Returns one entry per class, best first: {label, name, count, score}. */
function listed(found) {
  const classes = new Map();
  found.labels.forEach((label, i) => {
    const entry = classes.get(label) ?? { label, name: found.names[label] ?? `class ${label}`, count: 0, score: found.scores[i] };
    entry.count += 1;
    classes.set(label, entry);
  });
  return [...classes.values()];
}

function showList(classes) {
  const list = at("found"), wanted = classes.slice(0, 12);
  while (list.children.length > wanted.length) list.lastChild.remove();
  while (list.children.length < wanted.length) list.append(entry());
  wanted.forEach(({ label, name, count, score }, i) => {
    const [swatch, text, number] = list.children[i].children;
    swatch.style.background = classColor(label);
    text.textContent = count > 1 ? `${count} × ${name}` : name;
    number.textContent = `${Math.round(score * 100)}%`;
  });
  at("nothing").hidden = wanted.length > 0;
  at("nothing").textContent = at("empty").hidden ? "Nothing above this score." : "Nothing yet.";
}

function entry() {
  const item = document.createElement("li");
  item.append(document.createElement("i"), document.createElement("span"), document.createElement("small"));
  return item;
}

/** Announces the list to screen readers if it changed, at most once per SPEAK_EVERY. */
function speak(classes, canvas) {
  const text = classes.map(({ name, count }) => `${count} ${name}`).join(", ") || "nothing found";
  canvas.setAttribute("aria-label", `Picture: ${text}`);
  if (text === spoken || performance.now() - spokenAt < SPEAK_EVERY) return;
  [spoken, spokenAt] = [text, performance.now()];
  at("spoken").textContent = text;
}

export function showFigures(meter, live) {
  at("p50").textContent = inMs(meter.p50);
  at("p90").textContent = inMs(meter.p90);
  at("last").textContent = inMs(meter.last);
  at("frames").textContent = String(meter.frames);
  at("pill").hidden = !(live && meter.times.length);
  at("pill-ms").textContent = inMs(meter.p50);
  at("pill-fps").textContent = Number.isFinite(meter.fps) ? `${meter.fps.toFixed(meter.fps < 10 ? 1 : 0)} fps` : "";
  at("share").disabled = !meter.times.length;
  drawBars(at("bars"), meter.times);
}

export function complain(message) {
  at("alert-text").textContent = message;
  at("alert").hidden = !message;
  if (message) at("alert").scrollIntoView({ block: "nearest" });
}

export function hint(text) {
  at("hint").textContent = text;
}
