// The model that was used last, kept on this device so that the page works without a network.

const CACHE = "nanogfl-model", KEY = "last-model.onnx";

/** The model to start with: the one beside the page, else the last one: {buffer, file}, or null. */
export async function firstModel() {
  try {
    const served = await fetch("model.onnx");
    if (served.ok) return { buffer: await served.arrayBuffer(), file: nameOf(served) };
  } catch { /* offline */ }
  const kept = await (await open())?.match(KEY);
  return kept ? { buffer: await kept.arrayBuffer(), file: decodeURIComponent(kept.headers.get("X-File") ?? "model.onnx") } : null;
}

export async function keep(blob, file) {
  try {
    await (await open())?.put(KEY, new Response(blob, { headers: { "X-File": encodeURIComponent(file) } }));
  } catch { /* no room, or a private window: the page works all the same */ }
}

async function open() {
  return globalThis.caches?.open(CACHE);
}

function nameOf(response) {
  const encoded = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  return encoded ? decodeURIComponent(encoded) : "model.onnx";
}
