// Draws where the network looked, as the report does (training/reports/activation_maps.py):
// red where the evidence is for the label, blue against, relative to the strongest position.

const FOR = [217, 48, 37];
const AGAINST = [26, 115, 232];
const STRENGTH = 0.65; // opacity of the colour at the strongest position
const SIDE = 224; // pixels of the drawing, whatever the size at which it is shown

/** map: rows of numbers, above 0 for the label; stretched, bilinearly, over the whole canvas. */
export function draw(canvas, map) {
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  const strongest = Math.max(...map.flat().map(Math.abs), 1e-6);
  for (let y = 0, at = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++, at += 4) {
      const value = sample(map, (x + 0.5) / SIDE, (y + 0.5) / SIDE) / strongest;
      image.data.set(value > 0 ? FOR : AGAINST, at);
      image.data[at + 3] = Math.round(255 * STRENGTH * Math.abs(value));
    }
  }
  context.putImageData(image, 0, 0);
}

/** The map at x and y, from 0 to 1. A number of the map belongs to the centre of its part. */
function sample(map, x, y) {
  const [row, below, down] = between(y, map.length);
  const [column, right, across] = between(x, map[0].length);
  const upper = map[row][column] * (1 - across) + map[row][right] * across;
  const lower = map[below][column] * (1 - across) + map[below][right] * across;
  return upper * (1 - down) + lower * down;
}

function between(share, count) {
  const at = Math.min(Math.max(share * count - 0.5, 0), count - 1);
  const first = Math.floor(at);
  return [first, Math.min(first + 1, count - 1), at - first];
}
