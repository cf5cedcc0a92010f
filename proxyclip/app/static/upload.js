// The ways in which an image gets into the page: chosen, dropped or pasted.

export function listen(viewer, open) {
  const input = viewer.querySelector("input[type=file]");
  for (const button of viewer.querySelectorAll(".choose")) button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const [file] = input.files;
    if (file) open(file);
    input.value = ""; // so that the same file can be chosen again
  });

  let inside = 0; // elements that a dragged file is over
  const mark = () => viewer.classList.toggle("dragging", inside > 0);
  const withFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragenter", (event) => withFile(event) && (++inside, mark()));
  document.addEventListener("dragleave", (event) => withFile(event) && (--inside, mark()));
  document.addEventListener("dragover", (event) => withFile(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!withFile(event)) return;
    event.preventDefault();
    inside = 0;
    mark();
    const [file] = event.dataTransfer.files;
    if (file) open(file);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file) return; // text, for the field that has the focus
    event.preventDefault();
    open(file);
  });
}

// The answer of the server, or { error: sentence }.
export async function send(url, body) {
  try {
    const answer = await fetch(url, { method: "POST", body });
    return await answer.json();
  } catch {
    return { error: "the server refused the upload or cannot be reached" };
  }
}
