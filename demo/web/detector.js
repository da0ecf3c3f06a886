// A model in a worker: opens it and runs it on one picture at a time.

import { ModelFault } from "./modelfile.js";

const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const PATIENCE = 30_000; // ms; some phones never answer if several threads share memory

/** Returns a message about what this browser lacks; "" if it lacks nothing. */
export function whatIsMissing() {
  if (typeof WebAssembly !== "object" || typeof Worker !== "function") return "This browser has no WebAssembly; use a newer one";
  if (WebAssembly.validate(new Uint8Array(SIMD))) return "";
  return "This browser's WebAssembly has no SIMD, which the detector requires; use Safari 16.4, Chrome 91, Firefox 89, or newer";
}

/** Returns the number of threads to use: half the cores, at most four; one if the page is not cross-origin isolated. */
export function threadsHere() {
  if (!globalThis.crossOriginIsolated) return 1;
  return Math.max(1, Math.min(4, Math.floor((navigator.hardwareConcurrency ?? 2) / 2)));
}

export class Detector {
  #worker;
  #waiting = null; // callback for the answer to the pending message
  #turn = Promise.resolve();

  /** Opens the model with several threads, or with one thread if that fails. Throws ModelFault. */
  static async open(model, file) {
    const lacking = whatIsMissing();
    if (lacking) throw new ModelFault(lacking);
    const pin = await (await fetch("runtime.json")).json();
    const folder = new URL(`ort/${pin.version}/`, location.href).href;
    const order = { script: folder + pin.script, wasm: folder + pin.wasm, model };
    let answer;
    for (const threads of new Set([threadsHere(), 1])) {
      const detector = new Detector();
      answer = await detector.#ask({ ...order, threads }, threads > 1 ? PATIENCE : 0);
      if (answer.opened) return Object.assign(detector, { threads, hasSigma: answer.outputs.includes("side_sigma") });
      detector.close();
      if (answer.fault === "model") break;
    }
    throw new ModelFault(explain(answer, file));
  }

  constructor() {
    this.#worker = new Worker("worker.js", { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#answer(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#answer({ fault: "runtime", message: event.message ?? "the worker did not start" });
    };
  }

  /** Detects in one picture (ImageData, whose buffer is transferred to the worker); calls are queued. Throws ModelFault. */
  run(picture) {
    const { width, height } = picture;
    const turn = this.#turn.then(async () => {
      const answer = await this.#ask({ pixels: picture.data.buffer, width, height }, 0, [picture.data.buffer]);
      if (answer.fault) {
        throw new ModelFault(`The detector failed (${short(answer.message)}); try another picture, or open the model again`);
      }
      return answer;
    });
    this.#turn = turn.catch(() => {});
    return turn;
  }

  close() {
    this.#worker.terminate();
    this.#answer({ fault: "closed", message: "another model was opened" });
  }

  #ask(message, patience, transfer = []) {
    return new Promise((resolve) => {
      const timer = patience ? setTimeout(() => this.#answer({ fault: "slow", message: "no answer" }), patience) : 0;
      this.#waiting = (answer) => { clearTimeout(timer); resolve(answer); };
      this.#worker.postMessage(message, transfer);
    });
  }

  #answer(data) {
    this.#waiting?.(data);
    this.#waiting = null;
  }
}

function explain({ fault, message }, file) {
  if (fault === "model") return `${file} cannot be opened and may be damaged (${short(message)}); re-export it`;
  return `The runtime did not start, and its files may be missing (${short(message)}); run: python demo/web/fetch_runtime.py`;
}

function short(message) {
  return message.length > 160 ? `${message.slice(0, 160)} ...` : message;
}
