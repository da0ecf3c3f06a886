// The thread of the network: one session, and one input tensor that is reused for each frame. The page ends this worker
// when the model changes, because WebAssembly memory never shrinks.

let ort, session, input;

onmessage = async ({ data }) => {
  try {
    if (data.model) postMessage(await open(data));
    else {
      const found = await run(data);
      postMessage(found, [found.boxes.buffer, found.scores.buffer, found.labels.buffer]);
    }
  } catch (error) {
    postMessage({ fault: data.model ? fault(error) : "run", message: String(error?.message ?? error) });
  }
};

async function open({ model, threads, script, wasm }) {
  try {
    ort = await import(script);
  } catch (error) {
    throw Object.assign(error, { missing: true });
  }
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = { wasm };
  session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"], logSeverityLevel: 3 });
  return { opened: true, outputs: [...session.outputNames], threads };
}

/** Returns "runtime" if the runtime's files are missing, which its messages call a backend error, else "model". */
function fault(error) {
  return error?.missing || /backend/.test(error?.message ?? "") ? "runtime" : "model";
}

/** Detects in RGBA pixels; boxes are in px. Thresholds are the file's defaults: the runtime supports no optional inputs. */
async function run({ pixels, width, height }) {
  const started = performance.now();
  const image = inputFor(width, height);
  toBgr(new Uint8Array(pixels), image.data);
  const outputs = await session.run({ image });
  const found = {
    boxes: outputs.boxes.data.slice(),
    scores: outputs.scores.data.slice(),
    labels: Int32Array.from(outputs.labels.data, Number),
    sigma: outputs.side_sigma?.data.slice() ?? null,
    ms: 0,
  };
  for (const tensor of Object.values(outputs)) tensor.dispose();
  found.ms = performance.now() - started;
  return found;
}

function inputFor(width, height) {
  if (input?.dims[0] !== height || input.dims[1] !== width) {
    input?.dispose();
    input = new ort.Tensor("uint8", new Uint8Array(height * width * 3), [height, width, 3]);
  }
  return input;
}

function toBgr(rgba, bgr) {
  for (let from = 0, to = 0; to < bgr.length; from += 4, to += 3) {
    bgr[to] = rgba[from + 2];
    bgr[to + 1] = rgba[from + 1];
    bgr[to + 2] = rgba[from];
  }
}
