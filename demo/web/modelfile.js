// Reads the metadata of an exported .onnx. onnxruntime-web has no API for a model's metadata, so the few fields that are
// needed are parsed from the file: ModelProto (protobuf) with graph = 7 and metadata_props = 14 {key = 1, value = 2}.

const GRAPH = 7, METADATA = 14;
const VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5;

/** The error for a file that the page cannot use; the message is shown to the user. */
export class ModelFault extends Error {}

/** Returns the metadata of a model: {names, inputSize: [H, W], precision}. Throws ModelFault. */
export function readCard(buffer, file) {
  const metadata = readMetadata(new Uint8Array(buffer), file);
  const schema = metadata.get("nanogfl.schema");
  if (schema === undefined) {
    throw new ModelFault(`${file} is not an ONNX file of nanogfl (it has no nanogfl.schema); create one with: nanogfl export`);
  }
  if (schema !== "1") throw new ModelFault(`${file} has schema ${schema}, expected 1; use a newer page, or re-export the file`);
  const form = metadata.get("nanogfl.form");
  if (form !== "frame") {
    throw new ModelFault(`${file} has the form ${form}; the page requires: nanogfl export --form frame`);
  }
  return { names: readNames(metadata, file), inputSize: readSize(metadata, file), precision: metadata.get("nanogfl.precision") ?? "" };
}

function readNames(metadata, file) {
  try {
    const names = JSON.parse(metadata.get("nanogfl.classes"));
    if (Array.isArray(names) && names.length) return names.map(String);
  } catch { /* reported below */ }
  throw new ModelFault(`${file} has invalid metadata (nanogfl.classes); re-export it`);
}

function readSize(metadata, file) {
  const size = (metadata.get("nanogfl.input_size") ?? "").split(",").map(Number);
  if (size.length === 2 && size.every((side) => Number.isInteger(side) && side > 0)) return size;
  throw new ModelFault(`${file} has invalid metadata (nanogfl.input_size); re-export it`);
}

/** Returns metadata_props as a Map of strings. */
function readMetadata(bytes, file) {
  const metadata = new Map();
  let hasGraph = false;
  try {
    for (const [field, value] of fields(bytes)) {
      hasGraph ||= field === GRAPH && value instanceof Uint8Array;
      if (field === METADATA) {
        const entry = new Map(fields(value));
        metadata.set(text(entry.get(1)), text(entry.get(2)));
      }
    }
  } catch {
    throw new ModelFault(`${file} is not an ONNX file, or only a part of one; choose a file that nanogfl export wrote`);
  }
  if (!hasGraph) throw new ModelFault(`${file} is not an ONNX file; choose a file that nanogfl export wrote`);
  return metadata;
}

/** Yields the fields of one protobuf message in order: [number, Uint8Array | number]. Throws RangeError if malformed. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; scale <= 2 ** 63; scale *= 128) { // ten bytes at most
      if (at >= bytes.length) throw new RangeError("cut");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new RangeError("no varint");
  };
  const skip = (count) => {
    if (count > bytes.length - at) throw new RangeError("cut");
    at += count;
    return bytes.subarray(at - count, at);
  };
  while (at < bytes.length) {
    const key = varint();
    const field = Math.floor(key / 8), kind = key % 8;
    if (field < 1) throw new RangeError("no field");
    if (kind === VARINT) yield [field, varint()];
    else if (kind === BYTES) yield [field, skip(varint())];
    else if (kind === FIXED64) yield [field, skip(8)];
    else if (kind === FIXED32) yield [field, skip(4)];
    else throw new RangeError("no kind");
  }
}

function text(bytes) {
  return bytes instanceof Uint8Array ? new TextDecoder("utf-8", { fatal: true }).decode(bytes) : "";
}
