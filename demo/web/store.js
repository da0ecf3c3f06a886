// Keeps the model that was used last on this device, so that the page works offline.

const CACHE = "nanogfl-model", KEY = "last-model.onnx", CHOSEN = "nanogfl-chosen";

/**
 * Returns the model to start with, {buffer, file}, or null: the last model if one was chosen in this tab (before a
 * reload), else the model on the server, else (offline) the last model.
 */
export async function firstModel() {
  const last = await lastModel();
  if (last && chosenHere()) return last;
  try {
    const served = await fetch("model.onnx");
    if (served.ok) return { buffer: await served.arrayBuffer(), file: nameOf(served) };
  } catch { /* offline */ }
  return last;
}

/** Stores a model that could be opened; `chosen` is true if the user chose it, false if it came from the server. */
export async function keep(blob, file, chosen) {
  try {
    if (chosen) sessionStorage.setItem(CHOSEN, file);
    await (await open())?.put(KEY, new Response(blob, { headers: { "X-File": encodeURIComponent(file) } }));
  } catch { /* storage full, or a private window: the page works without it */ }
}

async function lastModel() {
  try {
    const kept = await (await open())?.match(KEY);
    return kept ? { buffer: await kept.arrayBuffer(), file: decodeURIComponent(kept.headers.get("X-File") ?? "model.onnx") } : null;
  } catch {
    return null; // the browser refuses storage
  }
}

function chosenHere() {
  try {
    return sessionStorage.getItem(CHOSEN) !== null;
  } catch {
    return false; // the browser refuses storage
  }
}

async function open() {
  return globalThis.caches?.open(CACHE);
}

function nameOf(response) {
  const encoded = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  return encoded ? decodeURIComponent(encoded) : "model.onnx";
}
