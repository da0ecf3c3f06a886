// Drawing of boxes and names over a picture.

const CROWD = 12; // with more boxes than this, tags are small and without scores

/** Returns the colour of a class; successive classes are far apart on the colour wheel. */
export function classColor(label) {
  return `hsl(${(205 + label * 137.508) % 360} 90% ${label % 2 ? 62 : 68}%)`;
}

/**
 * Draws detections: {boxes, scores, labels, sigma, count} in px of a picture of this width and height.
 * `to` is the target {x, y, width, height, mirror} on the canvas; `unit` scales lines and text, in canvas px.
 */
export function drawDetections(pen, found, size, to, unit, soft) {
  const scale = to.width / size.width;
  const place = (i) => {
    const [x1, y1, x2, y2] = found.boxes.subarray(4 * i, 4 * i + 4);
    const left = to.mirror ? size.width - x2 : x1;
    return { x: to.x + left * scale, y: to.y + y1 * scale, width: (x2 - x1) * scale, height: (y2 - y1) * scale };
  };
  pen.save();
  pen.beginPath();
  pen.rect(to.x, to.y, to.width, to.height);
  pen.clip();
  const worstFirst = [...found.scores.keys()].reverse();
  for (const i of worstFirst) {
    const box = place(i), color = classColor(found.labels[i]);
    if (soft && found.sigma) softEdges(pen, box, sigmaOf(found, i, to.mirror, scale), color);
    outline(pen, box, color, unit, soft && found.sigma);
  }
  for (const i of worstFirst) tag(pen, place(i), found, i, unit, to);
  pen.restore();
}

function outline(pen, box, color, unit, thin) {
  const round = Math.min(8 * unit, box.width / 4, box.height / 4);
  pen.beginPath();
  pen.roundRect(box.x, box.y, box.width, box.height, round);
  pen.strokeStyle = "rgb(0 0 0 / .55)";
  pen.lineWidth = (thin ? 2.5 : 4.5) * unit;
  pen.stroke();
  pen.strokeStyle = color;
  pen.lineWidth = (thin ? 1 : 2.5) * unit;
  pen.stroke();
}

/** Returns the standard deviations of left, top, right, bottom in canvas px, at least 1. */
function sigmaOf(found, i, mirror, scale) {
  const [left, top, right, bottom] = found.sigma.subarray(4 * i, 4 * i + 4).map((px) => Math.max(px * scale, 1));
  return mirror ? [right, top, left, bottom] : [left, top, right, bottom];
}

/** Draws each side as a band with the opacity of a normal distribution of its position. */
function softEdges(pen, { x, y, width, height }, [left, top, right, bottom], color) {
  const band = (from, spread, across, rect) => {
    const [a, b] = [from - 2.5 * spread, from + 2.5 * spread];
    const paint = across ? pen.createLinearGradient(a, 0, b, 0) : pen.createLinearGradient(0, a, 0, b);
    for (let step = 0; step <= 10; step++) {
      const z = step / 2 - 2.5;
      paint.addColorStop(step / 10, color.replace(")", ` / ${Math.max(0, 0.42 * Math.exp((-z * z) / 2) - 0.018).toFixed(3)})`));
    }
    pen.fillStyle = paint;
    pen.fillRect(...rect(a, b - a));
  };
  band(x, left, true, (a, length) => [a, y, length, height]);
  band(x + width, right, true, (a, length) => [a, y, length, height]);
  band(y, top, false, (a, length) => [x, a, width, length]);
  band(y + height, bottom, false, (a, length) => [x, a, width, length]);
}

function tag(pen, box, found, i, unit, to) {
  const crowded = found.scores.length > CROWD, size = (crowded ? 11 : 13) * unit, pad = (crowded ? 3.5 : 5) * unit;
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const name = found.names[found.labels[i]] ?? `class ${found.labels[i]}`;
  const text = crowded ? name : `${name} ${Math.round(found.scores[i] * 100)}%`;
  const width = pen.measureText(text).width + 2 * pad, height = size + 1.4 * pad;
  const above = box.y - height - unit;
  const x = Math.max(to.x, Math.min(box.x - 1.25 * unit, to.x + to.width - width));
  const y = above >= to.y ? above : Math.max(box.y, to.y) + 2 * unit;
  pen.fillStyle = classColor(found.labels[i]);
  pen.beginPath();
  pen.roundRect(x, y, width, height, 5 * unit);
  pen.fill();
  pen.fillStyle = "#0b0d12";
  pen.textBaseline = "middle";
  pen.fillText(text, x + pad, y + height / 2 + 0.5 * unit);
}
