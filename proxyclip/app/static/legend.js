// The classes with their colours and areas, largest first; a click on one asks for its heat map.

export class Legend {
  constructor(element, choose) {
    Object.assign(this, { element, choose });
  }

  show({ classes, results }) {
    const [{ areas }] = results;
    const order = classes.map((_, index) => index).sort((a, b) => areas[b] - areas[a]);
    this.element.replaceChildren(...order.map((index) => this.entry(classes[index], index, results)));
  }

  entry({ name, colour }, index, results) {
    const [first, ...synonyms] = name.split(";").map((part) => part.trim());
    const button = Object.assign(document.createElement("button"), { type: "button", title: name });
    button.dataset.class = index;
    const swatch = part("i", "");
    swatch.style.background = colour;
    const label = part("span", "name", first);
    if (synonyms.length) label.append(part("small", "", ` ${synonyms.join(", ")}`));
    button.append(swatch, label, part("span", "areas", results.map(({ areas }) => percent(areas[index])).join(" | ")));
    button.classList.toggle("absent", results.every(({ areas }) => areas[index] === 0));
    button.addEventListener("click", () => this.choose(index));
    return button;
  }

  select(index) {
    for (const button of this.element.children)
      button.setAttribute("aria-pressed", String(Number(button.dataset.class) === index));
  }
}

function part(tag, className, textContent = "") {
  return Object.assign(document.createElement(tag), { className, textContent });
}

function percent(share) {
  if (share === 0) return "–";
  return share >= 0.0995 ? `${Math.round(100 * share)} %` : share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %";
}
