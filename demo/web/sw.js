// Makes the page work offline after the first visit: the page's own files come from the network, or from the cache if
// there is none; the runtime, which never changes at its address, comes from the cache first. It also adds the headers
// that allow WebAssembly threads, for hosts that cannot send them.

const CACHE = "nanogfl-page";
const PAGE = [
  "./", "style.css", "app.js", "camera.js", "detector.js", "draw.js", "meter.js", "modelfile.js", "share.js", "store.js", "view.js",
  "worker.js", "runtime.json", "manifest.webmanifest", "icon.svg", "icon-180.png", "icon-192.png", "icon-512.png",
];

addEventListener("install", (event) => event.waitUntil(fill()));

addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  const { request } = event, url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  if (/\/(model\.onnx|health)$/.test(url.pathname)) return; // store.js keeps the model
  const answer = url.pathname.includes("/ort/") ? cacheFirst(request) : networkFirst(request);
  event.respondWith(answer.then(isolated));
});

async function fill() {
  const cache = await caches.open(CACHE);
  await cache.addAll(PAGE);
  const pin = await (await cache.match("runtime.json")).json();
  for (const old of await cache.keys()) {
    if (old.url.includes("/ort/") && !old.url.includes(`/ort/${pin.version}/`)) await cache.delete(old);
  }
  const runtime = [pin.script, pin.wasm].map((name) => `ort/${pin.version}/${name}`);
  await Promise.allSettled(runtime.map((file) => cache.add(file))); // if they are missing, the page reports it
  await skipWaiting();
}

async function cacheFirst(request) {
  const cache = await caches.open(CACHE);
  return (await cache.match(request)) ?? keep(cache, request, await fetch(request));
}

async function networkFirst(request) {
  const cache = await caches.open(CACHE);
  try {
    return keep(cache, request, await fetch(request));
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}

function keep(cache, request, response) {
  if (response.ok && response.type === "basic") cache.put(request, response.clone());
  return response;
}

function isolated(response) {
  if (response.type.startsWith("opaque")) return response; // also a redirect of a navigation: status 0 cannot be rebuilt
  if (response.headers.has("Cross-Origin-Embedder-Policy")) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
