// The page: what a person does, what the server answers, and what is shown of it.

import { Files } from "./files.js";
import { Legend } from "./legend.js";
import { loadMap } from "./maps.js";
import { Stage } from "./stage.js";
import { listen, send } from "./upload.js";

export function start({ element, trigger, props, watch }) {
  const viewer = element.querySelector(".viewer");
  const facts = JSON.parse(props.facts);
  const page = new Page(viewer, facts, trigger);
  watch("value", () => page.receive(props.value));
  window.proxyclip = { begin: () => page.begin() };
}

class Page {
  constructor(viewer, facts, trigger) {
    Object.assign(this, { viewer, facts, trigger, image: null, result: null, heat: null, waiting: false });
    this.find = (selector) => viewer.querySelector(selector);
    this.stage = new Stage(viewer, facts.heat);
    this.legend = new Legend(this.find(".legend"), (index) => this.showHeat(index));
    this.files = new Files(this.find(".files"), () => this.stage.opacity);
    this.find(".labels-again").addEventListener("click", () => this.showLabels());
    this.find(".allowed").textContent =
      `up to ${facts.limits.max_upload} MB and ${+(facts.limits.max_pixels / 1e6).toFixed(1)} million pixels`;
    listen(viewer, (file) => this.open(file));
    this.addExamples();
    this.listenForToasts();
  }

  addExamples() {
    for (const { name, title } of this.facts.examples) {
      const button = document.createElement("button");
      const picture = Object.assign(new Image(), { src: `parts/examples/${name}.png`, alt: "" });
      Object.assign(button, { type: "button", title });
      button.dataset.example = name;
      button.append(picture, title);
      button.addEventListener("click", () => this.openExample(name));
      this.find(".examples").append(button);
    }
  }

  async open(file) {
    const { max_upload } = this.facts.limits;
    if (file.size > max_upload * 1e6) return this.fail(`the file is larger than ${max_upload} MB, the most that is accepted`);
    return this.fetchImage(`images?name=${encodeURIComponent(file.name)}`, file, "Reading the image");
  }

  async openExample(name) {
    if (!(await this.fetchImage(`examples/${name}?`, null, "Reading the example"))) return;
    this.trigger("example", { name }); // fills in its names, and then segments
  }

  async fetchImage(url, body, doing) {
    this.busy(doing);
    const answer = await send(`${url}&instead_of=${this.image?.key ?? ""}`, body);
    if (answer.error) return this.fail(answer.error);
    this.image = answer;
    this.result = this.heat = null;
    await this.stage.showImage(answer);
    this.become("ready");
    return true;
  }

  // Before a run: the key of the image.
  begin() {
    this.waiting = true;
    this.busy("Waiting for the model");
    if (this.stage.outOfSight()) this.viewer.scrollIntoView({ behavior: "smooth", block: "start" });
    return this.image?.key ?? "";
  }

  // Gradio reports in a toast what never reached our code: a full queue, a lost connection.
  listenForToasts() {
    const seen = new WeakSet();
    new MutationObserver(() => {
      for (const toast of document.querySelectorAll(".toast-body.error")) {
        if (seen.has(toast)) continue;
        seen.add(toast);
        if (this.waiting) this.fail("the server is busy or cannot be reached: try again in a while");
      }
    }).observe(document.body, { childList: true, subtree: true });
  }

  async receive(answer) {
    if (!answer) return;
    if (answer.busy) return this.busy(answer.busy);
    this.waiting = false;
    if (answer.error) return this.fail(answer.error);
    if (answer.image !== this.image?.key) return; // another one was opened meanwhile
    const wide = answer.classes.length > 256;
    try {
      for (const side of answer.results) {
        side.labels = await loadMap(`results/${side.key}/labels`, wide);
        side.confidence = await loadMap(`results/${side.key}/confidence`);
      }
    } catch (error) {
      return this.fail(error.message);
    }
    this.result = answer;
    this.stage.showResult(answer);
    this.legend.show(answer);
    this.files.show(answer.results);
    this.showNotes(answer.notes);
    this.showLabels();
  }

  showLabels() {
    this.heat = null;
    this.stage.drawLabels();
    this.legend.select(null);
    this.become("labels");
  }

  async showHeat(index) {
    if (this.heat === index) return this.showLabels();
    this.busy(`Heat map of ${this.result.classes[index].name}`);
    try {
      for (const side of this.result.results) {
        side.heat ??= {};
        side.heat[index] ??= await loadMap(`results/${side.key}/heat/${index}`);
      }
    } catch (error) {
      return this.fail(error.message);
    }
    this.heat = index;
    this.stage.drawHeat(index);
    this.legend.select(index);
    this.become("heat");
  }

  showNotes(notes) {
    this.find(".notes").replaceChildren(...notes.map(note));
  }

  busy(doing) {
    this.find(".message").textContent = "";
    this.find(".doing").textContent = doing;
    this.viewer.classList.add("working");
    const since = performance.now();
    const clock = this.find(".clock");
    clock.textContent = "";
    clearInterval(this.running);
    this.running = setInterval(() => {
      clock.textContent = `${Math.round((performance.now() - since) / 1000)} s`;
    }, 1000);
  }

  rest() {
    clearInterval(this.running);
    this.running = null;
    this.viewer.classList.remove("working");
  }

  become(state) {
    this.rest();
    this.viewer.dataset.state = state;
  }

  fail(sentence) {
    this.rest();
    this.waiting = false;
    this.find(".message").textContent = capital(sentence);
    return false;
  }
}

// A warning of the library; what follows the first part of a long one is folded away.
function note(text) {
  const item = document.createElement("li");
  const end = text.indexOf("; ");
  if (text.length < 160 || end < 0) {
    item.textContent = capital(text);
    return item;
  }
  const details = document.createElement("details");
  details.append(Object.assign(document.createElement("summary"), { textContent: capital(text.slice(0, end)) }));
  details.append(capital(text.slice(end + 2)));
  item.append(details);
  return item;
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
