// Maps of the server, and colours in place of their values.

// One value a pixel, row by row. wide: two bytes each.
export async function loadMap(url, wide = false) {
  let answer;
  try {
    answer = await fetch(url);
  } catch {
    throw new Error("the server cannot be reached");
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  const bytes = await answer.arrayBuffer();
  return wide ? new Uint16Array(bytes) : new Uint8Array(bytes);
}

export function rgb(hex) {
  const number = parseInt(hex.slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}

// Class colours, with a light line where two labels meet.
export function paintLabels(canvas, labels, width, height, colours) {
  paint(canvas, width, height, (pixels) => {
    for (let y = 0, place = 0; y < height; y++) {
      for (let x = 0; x < width; x++, place++) {
        const label = labels[place];
        const edge = (x + 1 < width && labels[place + 1] !== label) || (y + 1 < height && labels[place + width] !== label);
        set(pixels, place, edge ? [255, 255, 255] : colours[label], 255);
      }
    }
  });
}

// Percent in the colours of a scale of 101 steps.
export function paintHeat(canvas, percent, width, height, scale) {
  paint(canvas, width, height, (pixels) => {
    for (let place = 0; place < percent.length; place++) set(pixels, place, scale[percent[place]], 255);
  });
}

function paint(canvas, width, height, fill) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  fill(image.data);
  context.putImageData(image, 0, 0);
}

function set(pixels, place, [red, green, blue], alpha) {
  pixels[4 * place] = red;
  pixels[4 * place + 1] = green;
  pixels[4 * place + 2] = blue;
  pixels[4 * place + 3] = alpha;
}
