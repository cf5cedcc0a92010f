// Links to the files of each result.

const KINDS = {
  overlay: ["Overlay", "the image with its classes in colour, and a legend (PNG)"],
  labels: ["Labels", "the label of each pixel, with a palette (PNG)"],
  json: ["JSON", "classes, colours, areas and settings"],
};

export class Files {
  // opacity: a function that says how the overlay is shown.
  constructor(element, opacity) {
    Object.assign(this, { element, opacity });
  }

  show(results) {
    this.element.replaceChildren(
      ...results.map(({ key, title, seconds }) => {
        const row = document.createElement("div");
        row.append(Object.assign(document.createElement("span"), { textContent: `${title}, ${seconds} s` }));
        row.append(...Object.entries(KINDS).map(([kind, [text, title]]) => this.link(key, kind, `↓ ${text}`, title)));
        return row;
      }),
    );
  }

  link(key, kind, textContent, title) {
    const link = Object.assign(document.createElement("a"), { textContent, title, download: "" });
    link.dataset.kind = kind;
    const address = () => (link.href = `results/${key}/files/${kind}?alpha=${this.opacity()}`);
    address();
    link.addEventListener("pointerdown", address); // with the opacity of that moment
    link.addEventListener("keydown", address);
    return link;
  }
}
