// The camera: opening, switching, closing, and saying what is wrong.

// As the camera delivers it: browsers that scale or cut the picture to these numbers cost time and lose its edges.
const WANTED = { width: { ideal: 640 }, height: { ideal: 480 }, resizeMode: { ideal: "none" } };

export class CameraFault extends Error {}

let running = false, lock = null; // the lock is of the screen
let turn = 0; // of those who want the camera: whoever is asked for last, or closes it, has it

/**
 * Starts the camera that looks this way ("environment" is the back, "user" the front) and plays it in the video.
 * Null, with no camera left on, where it was closed or asked for anew while the browser asked.
 */
export async function openCamera(video, facing) {
  closeCamera(video);
  const mine = turn;
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new CameraFault("Browsers give a page the camera only over https or on localhost. Pictures work here all the same.");
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
  if (mine !== turn) return null; // whoever took the turn stopped this stream
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
  } catch { /* a low battery: the screen goes dark, and that is all */ }
}

document.addEventListener("visibilitychange", stayAwake); // browsers let go of it whenever the page is hidden

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
      return "The camera was refused. Allow it for this page in the browser's settings, then press Camera again.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera was found. Plug one in, or choose a picture.";
    case "NotReadableError":
    case "AbortError":
      return "The camera is in use by another app, or did not start. Close the other app and try again.";
    default:
      return `The camera did not start (${error.message || error.name}).`;
  }
}
