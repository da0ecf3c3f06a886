// The model that was used last, kept on this device so that the page works without a network.

const CACHE = "nanogfl-model", KEY = "last-model.onnx", CHOSEN = "nanogfl-chosen";

/**
 * The model to start with: {buffer, file}, or null. What was chosen in this tab outlives a reload; else the model beside
 * the page comes first, and without a network the last one.
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

/** Keeps a model that could be opened; `chosen` by a person, or found beside the page. */
export async function keep(blob, file, chosen) {
  try {
    if (chosen) sessionStorage.setItem(CHOSEN, file);
    await (await open())?.put(KEY, new Response(blob, { headers: { "X-File": encodeURIComponent(file) } }));
  } catch { /* no room, or a private window: the page works all the same */ }
}

async function lastModel() {
  try {
    const kept = await (await open())?.match(KEY);
    return kept ? { buffer: await kept.arrayBuffer(), file: decodeURIComponent(kept.headers.get("X-File") ?? "model.onnx") } : null;
  } catch {
    return null; // a browser that stores nothing
  }
}

function chosenHere() {
  try {
    return sessionStorage.getItem(CHOSEN) !== null;
  } catch {
    return false; // a browser that stores nothing
  }
}

async function open() {
  return globalThis.caches?.open(CACHE);
}

function nameOf(response) {
  const encoded = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  return encoded ? decodeURIComponent(encoded) : "model.onnx";
}
