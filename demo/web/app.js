// The page: the picture sources, the model that runs on them, and the buttons.

import { cameraCount, CameraFault, closeCamera, nextFrame, openCamera } from "./camera.js";
import { Detector, whatIsMissing } from "./detector.js";
import { Meter } from "./meter.js";
import { ModelFault, readCard } from "./modelfile.js";
import { canShare, deviceName, drawCard, shareCard } from "./share.js";
import { firstModel, keep } from "./store.js";
import { above, at, clearFound, complain, hint, showFigures, showFound, showSize, showSource } from "./view.js";

const LARGEST = 4_000_000; // px; larger pictures are shrunk first, because phones have little memory
const PICTURE_RUNS = 8; // runs on one picture, so that its latency is a median too

/** The state of the page. `frame` is a canvas with the pixels that `found` was detected in. */
export const state = {
  detector: null, card: null, file: "", source: "", paused: false, facing: "environment", mirror: false,
  found: null, frame: document.createElement("canvas"), meter: new Meter(), round: 0,
};
const framePen = state.frame.getContext("2d", { willReadFrequently: true });

// --- the model ---

let asked = null; // the latest request for a model; earlier ones may still be loading

/** Opens a model, `given` as bytes or a promise of them. */
export async function useModel(given, file, chosen = true) {
  const turn = asked = {};
  complain("");
  try {
    const buffer = await given;
    const card = readCard(buffer, file);
    const copy = new Blob([buffer]);
    hint("Opening the model …");
    const detector = await Detector.open(buffer, file);
    if (turn !== asked) {
      detector.close();
      return;
    }
    state.detector?.close();
    Object.assign(state, { detector, card, file, found: null });
    state.meter.reset();
    await keep(copy, file, chosen);
    showModel();
    if (state.source === "picture") await look();
  } catch (error) {
    if (turn !== asked) return;
    asked = null;
    report(error);
  }
}

function showModel() {
  const { card, detector, file } = state, [height, width] = card.inputSize;
  const classes = card.names.length === 1 ? "1 class" : `${card.names.length} classes`;
  at("model-line").textContent = `${file} · ${classes} · ${width} × ${height}`;
  at("model-line").title = card.names.join(", ");
  at("setup").textContent = `${detector.threads > 1 ? `${detector.threads} threads` : "1 thread"}, WebAssembly SIMD. `
    + "From the frame's pixels to its boxes.";
  at("soft-row").hidden = !detector.hasSigma;
  at("picture").disabled = at("camera").disabled = false;
  hint("Start the camera, or choose a picture.");
  showFigures(state.meter, false);
}

// --- detection ---

/** Runs the model on the pixels in `frame` and shows the detections, unless model or source changed meanwhile. */
async function look() {
  const { detector, frame, round } = state;
  const late = () => detector !== state.detector || round !== state.round;
  let found;
  try {
    found = await detector.run(framePen.getImageData(0, 0, frame.width, frame.height));
  } catch (error) {
    if (late()) return;
    throw error;
  }
  if (late()) return;
  state.found = found;
  state.meter.add(found.ms);
  show();
}

/** Shows the last detections again, with the current threshold and window size. */
function show() {
  if (!state.found || !state.source) return;
  showFound(shown(), state.frame, { mirror: state.mirror, soft: at("soft").checked });
  showFigures(state.meter, state.source === "camera");
}

function shown() {
  return above(state.found, at("score").valueAsNumber / 100, state.card.names);
}

function takeFrame(source, width, height) {
  if (state.frame.width !== width) state.frame.width = width;
  if (state.frame.height !== height) state.frame.height = height;
  framePen.drawImage(source, 0, 0, width, height);
}

async function startCamera(facing) {
  complain("");
  stop();
  const { round } = state;
  try {
    const opened = await openCamera(at("video"), facing);
    if (!opened) return; // another source was chosen while the browser asked for permission
    Object.assign(state, { source: "camera", facing: opened.facing, mirror: opened.facing === "user" });
    opened.track.addEventListener("ended", () => { stop(); complain("The camera was lost; press Camera to start it again"); });
    state.meter.reset();
    showSource("camera", state.mirror);
    showButtons();
    at("flip").disabled = (await cameraCount()) < 2;
    await follow(opened.track);
  } catch (error) {
    if (round !== state.round) return;
    stop();
    report(error);
  }
}

/** Detects in frame after frame while this camera is the source. Frames that arrive during a run are skipped. */
async function follow(track) {
  const video = at("video");
  const { round } = state;
  while (track.readyState === "live") {
    await nextFrame(video);
    if (round !== state.round) return;
    if (state.paused || !video.videoWidth) continue;
    takeFrame(video, video.videoWidth, video.videoHeight);
    showSize(video.videoWidth, video.videoHeight);
    await look();
  }
}

function pause(paused) {
  state.paused = paused;
  if (paused) at("video").pause();
  else at("video").play().catch(report);
  showButtons();
}

function stop() {
  picked = null;
  closeCamera(at("video"));
  Object.assign(state, { source: "", paused: false, mirror: false, found: null, round: state.round + 1 });
  showSource("");
  clearFound();
  showButtons();
}

let picked = null; // the latest request for a picture

export async function usePicture(file) {
  const turn = picked = {};
  complain("");
  let picture;
  try {
    picture = await createImageBitmap(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    if (turn === picked) complain(`${file.name} is not a picture that this browser can read; choose a JPEG or a PNG`);
    return;
  }
  if (turn !== picked) {
    picture.close();
    return;
  }
  stop();
  const shrink = Math.min(1, Math.sqrt(LARGEST / (picture.width * picture.height)));
  const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * shrink)));
  framePen.clearRect(0, 0, state.frame.width, state.frame.height);
  takeFrame(picture, width, height);
  picture.close();
  const still = at("still");
  [still.width, still.height] = [width, height];
  still.getContext("2d").drawImage(state.frame, 0, 0);
  state.source = "picture";
  state.meter.reset();
  showSource("picture");
  showSize(width, height);
  try {
    const { round } = state;
    for (let run = 0; run < PICTURE_RUNS && round === state.round; run++) await look();
  } catch (error) {
    report(error);
  }
}

function report(error) {
  const known = error instanceof ModelFault || error instanceof CameraFault;
  complain(known ? error.message : `The page failed (${error?.message ?? error}); reload it and try again`);
  if (!state.detector) hint("Choose a model (.onnx), or drop one here.");
}

// --- buttons ---

function showButtons() {
  const live = state.source === "camera";
  at("camera-text").textContent = !live ? "Camera" : state.paused ? "Resume" : "Pause";
  at("camera-icon").setAttribute("href", !live ? "#i-camera" : state.paused ? "#i-play" : "#i-pause");
  if (!live) at("flip").disabled = true;
}

async function useFile(file) {
  if (file.name.toLowerCase().endsWith(".onnx")) await useModel(file.arrayBuffer(), file.name);
  else if (!file.type.startsWith("image/")) complain(`${file.name} is neither a model (.onnx) nor a picture; drop one of these`);
  else if (state.detector) await usePicture(file);
  else complain("No model is open; choose a model (.onnx) first, then a picture");
}

async function openShare() {
  at("device").value ||= await deviceName();
  at("with-picture").disabled = !state.source;
  at("card-share").hidden = !canShare();
  if (state.source === "camera" && !state.paused) pause(true);
  paintCard();
  at("card-dialog").showModal();
}

function paintCard() {
  const { card, detector, file, meter, frame } = state, [height, width] = card.inputSize;
  const withPicture = state.source && state.found && at("with-picture").checked;
  drawCard(at("card"), {
    device: at("device").value, model: file, threads: detector.threads,
    input: [`${width} × ${height}`, card.precision, `${card.names.length} classes`].filter(Boolean).join(" · "),
    times: { p50: meter.p50, count: meter.times.length },
    shot: withPicture ? { source: frame, width: frame.width, height: frame.height, found: shown(), mirror: state.mirror } : null,
  });
}

function wireFiles() {
  const choose = (button, input, use) => {
    at(button).addEventListener("click", () => at(input).click());
    at(input).addEventListener("change", async () => {
      const [file] = at(input).files;
      if (file) await use(file);
      at(input).value = "";
    });
  };
  choose("picture", "picture-file", usePicture);
  choose("choose-model", "model-file", (file) => useModel(file.arrayBuffer(), file.name));
  const dropping = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => { event.preventDefault(); dropping(true); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) dropping(false); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    dropping(false);
    const [file] = event.dataTransfer.files;
    if (file) useFile(file);
  });
}

function wireButtons() {
  at("camera").addEventListener("click", () => (state.source === "camera" ? pause(!state.paused) : startCamera(state.facing)));
  at("flip").addEventListener("click", () => startCamera(state.facing === "user" ? "environment" : "user"));
  at("alert-close").addEventListener("click", () => complain(""));
  at("soft").addEventListener("change", show);
  at("score").addEventListener("input", () => { at("score-text").textContent = `${at("score").value}%`; show(); });
  addEventListener("resize", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  at("share").addEventListener("click", openShare);
  at("device").addEventListener("input", paintCard);
  at("with-picture").addEventListener("change", paintCard);
  at("card-close").addEventListener("click", () => at("card-dialog").close());
  at("card-save").addEventListener("click", () => shareCard(at("card"), true));
  at("card-share").addEventListener("click", () => shareCard(at("card"), false));
}

async function start() {
  wireFiles();
  wireButtons();
  navigator.serviceWorker?.register("sw.js").catch(() => {}); // optional: without it, the page does not work offline
  const lacking = whatIsMissing();
  if (lacking) {
    at("choose-model").disabled = true;
    hint("The detector cannot run here.");
    complain(lacking);
    return;
  }
  const model = await firstModel();
  if (asked) return; // the user has chosen a model meanwhile
  if (model) await useModel(model.buffer, model.file, false);
  else hint("Choose a model (.onnx), or drop one here.");
}

/** Resolves once the first model is open, or if there is none. */
export const ready = start().catch(report);
