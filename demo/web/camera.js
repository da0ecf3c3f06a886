// The camera: opening, switching, closing, and error messages.

// The camera's own mode: a browser that scales or crops the picture to these numbers takes time and loses its edges.
const WANTED = { width: { ideal: 640 }, height: { ideal: 480 }, resizeMode: { ideal: "none" } };

export class CameraFault extends Error {}

let running = false, lock = null; // lock: wake lock of the screen
let turn = 0; // number of the latest call that opened or closed the camera; earlier calls give up

/**
 * Starts the camera of this facing mode ("environment" is the back, "user" the front) and plays it in the video.
 * Returns null, with the camera off, if it was closed or requested again while the browser asked for permission.
 */
export async function openCamera(video, facing) {
  closeCamera(video);
  const mine = turn;
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new CameraFault("Browsers give a page the camera only over https or on localhost; open it there, or choose a picture");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { ...WANTED, facingMode: { ideal: facing } } });
  } catch (error) {
    throw new CameraFault(explain(error));
  }
  if (mine !== turn) {
    stopTracks(stream);
    return null;
  }
  video.srcObject = stream;
  await video.play();
  if (mine !== turn) return null; // the later call has stopped this stream
  running = true;
  stayAwake();
  const settings = stream.getVideoTracks()[0].getSettings();
  return { facing: settings.facingMode ?? facing, track: stream.getVideoTracks()[0] };
}

/** Keeps a phone's screen on while the camera runs. */
async function stayAwake() {
  if (!running || lock || document.hidden || !navigator.wakeLock) return;
  try {
    lock = await navigator.wakeLock.request("screen");
    lock.addEventListener("release", () => { lock = null; });
  } catch { /* refused, for example at low battery: the screen may turn off */ }
}

document.addEventListener("visibilitychange", stayAwake); // browsers release the lock when the page is hidden

export function closeCamera(video) {
  running = false;
  turn += 1;
  lock?.release();
  stopTracks(video.srcObject);
  video.srcObject = null;
}

function stopTracks(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

export async function cameraCount() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter((device) => device.kind === "videoinput").length;
}

/** Resolves when the video shows its next picture. */
export function nextFrame(video) {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
    else requestAnimationFrame(resolve);
  });
}

function explain(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "The camera was refused; allow it for this page in the browser's settings, then press Camera again";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera was found; plug one in, or choose a picture";
    case "NotReadableError":
    case "AbortError":
      return "The camera is in use by another app, or did not start; close the other app and try again";
    default:
      return `The camera did not start (${error.message || error.name}); try again, or choose a picture`;
  }
}
