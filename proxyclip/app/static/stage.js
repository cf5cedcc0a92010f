// The image, the maps over it, the divider between two of them, and what is under the pointer.

import { paintHeat, paintLabels, rgb } from "./maps.js";

export class Stage {
  // scale: the colours of 0 to 100 percent.
  constructor(viewer, scale) {
    Object.assign(this, { viewer, scale: scale.map(rgb), result: null, heat: null, split: 0.5, pinned: null });
    const find = (selector) => viewer.querySelector(selector);
    this.frame = find(".frame");
    this.base = find(".base");
    this.layers = [...viewer.querySelectorAll(".layer")];
    this.tags = [...viewer.querySelectorAll(".tag")];
    this.divider = find(".divider");
    this.readout = find(".readout");
    this.pin = find(".pin");
    find(".scale i").style.background = `linear-gradient(to right, ${scale.filter((_, step) => step % 10 === 0)})`;
    this.followSlider(find(".opacity input"), find(".opacity output"));
    this.followPointer();
    this.followDivider();
  }

  get opacity() {
    return this.slider.value / 100;
  }

  outOfSight() {
    const { top, bottom } = this.frame.parentElement.getBoundingClientRect();
    return top < -80 || bottom > window.innerHeight + 80;
  }

  followSlider(slider, output) {
    this.slider = slider;
    const follow = () => {
      output.textContent = `${slider.value} %`;
      this.viewer.style.setProperty("--alpha", this.opacity);
    };
    slider.addEventListener("input", follow);
    follow();
  }

  // Pixels of the image on the page may be fewer than those of the file: the maps have the same size as the image.
  async showImage({ key, name, width, height }) {
    this.result = null;
    this.clear();
    this.base.src = `images/${key}`;
    this.base.alt = name;
    await this.base.decode();
    this.width = this.base.naturalWidth;
    this.height = this.base.naturalHeight;
    this.frame.style.setProperty("--ratio", width / height);
  }

  showResult(result) {
    this.result = result;
    this.clear();
    this.viewer.classList.toggle("comparing", result.results.length > 1);
    this.colours = result.classes.map(({ colour }) => rgb(colour));
    result.results.forEach(({ title }, side) => (this.tags[side].textContent = title));
    this.moveDivider(0.5);
  }

  clear() {
    this.heat = this.pinned = null;
    this.viewer.classList.remove("comparing");
    this.pin.hidden = true;
    this.readout.replaceChildren();
  }

  drawLabels() {
    this.heat = null;
    this.result.results.forEach(({ labels }, side) =>
      paintLabels(this.layers[side], labels, this.width, this.height, this.colours),
    );
    this.read();
  }

  drawHeat(index) {
    this.heat = index;
    this.result.results.forEach(({ heat }, side) =>
      paintHeat(this.layers[side], heat[index], this.width, this.height, this.scale),
    );
    this.read();
  }

  followPointer() {
    const place = (event) => {
      const box = this.frame.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    this.frame.addEventListener("pointermove", (event) => this.pinned || this.read(place(event)));
    this.frame.addEventListener("pointerleave", () => this.pinned || this.read(null));
    this.frame.addEventListener("click", (event) => {
      if (!this.result || event.target === this.divider) return;
      const [x, y] = place(event);
      const again = this.pinned && Math.hypot(x - this.pinned[0], y - this.pinned[1]) < 0.02;
      this.pinned = again ? null : [x, y];
      this.pin.hidden = again;
      Object.assign(this.pin.style, { left: `${100 * x}%`, top: `${100 * y}%` });
      this.read([x, y]);
    });
  }

  // Says what is at a place (x, y) from 0 to 1; null: nothing.
  read(place = this.pinned) {
    const inside = place && place.every((part) => part >= 0 && part < 1);
    if (!inside || !this.result) return this.readout.replaceChildren();
    const { classes, results } = this.result;
    const side = results.length > 1 && place[0] >= this.split ? 1 : 0;
    const pixel = Math.floor(place[1] * this.height) * this.width + Math.floor(place[0] * this.width);
    const index = this.heat ?? results[side].labels[pixel];
    const percent = (this.heat === null ? results[side].confidence : results[side].heat[index])[pixel];
    const swatch = document.createElement("i");
    swatch.style.background = classes[index].colour;
    const name = Object.assign(document.createElement("b"), { textContent: classes[index].name });
    const method = results.length > 1 ? `, ${results[side].title}` : "";
    this.readout.replaceChildren(swatch, name, ` ${percent} %${method}`);
  }

  followDivider() {
    const move = (event) => {
      const box = this.frame.getBoundingClientRect();
      this.moveDivider((event.clientX - box.left) / box.width);
    };
    this.divider.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.divider.focus();
      this.divider.setPointerCapture(event.pointerId);
      this.divider.addEventListener("pointermove", move);
    });
    for (const end of ["pointerup", "pointercancel"])
      this.divider.addEventListener(end, () => this.divider.removeEventListener("pointermove", move));
    this.divider.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.moveDivider(this.split + step);
    });
  }

  moveDivider(split) {
    this.split = Math.min(1, Math.max(0, split));
    this.viewer.style.setProperty("--split", `${100 * this.split}%`);
    this.divider.setAttribute("aria-valuenow", Math.round(100 * this.split));
  }
}
