"use strict";

// Tables are sorted by their headers; the page is complete without this.
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const at = (row) => row.cells[head.cellIndex];
    body.append(...[...body.rows].sort((a, b) => compare(at(a), at(b), up ? 1 : -1)));
  });
}

// What was not measured comes last in both directions.
function compare(a, b, sign) {
  const missing = (cell) => cell.classList.contains("none");
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  if (a.dataset.sort !== undefined && b.dataset.sort !== undefined) return sign * (a.dataset.sort - b.dataset.sort);
  return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
}

// A picture opens in its own size; a click or Escape closes it.
const dialog = document.createElement("dialog");
dialog.addEventListener("click", () => dialog.close());
document.body.append(dialog);
const hint = '<p class="faint">A click on a picture shows it in its own size.</p>';
document.querySelector("#pictures h2")?.insertAdjacentHTML("afterend", hint);
for (const picture of document.querySelectorAll("figure img")) {
  const open = () => {
    dialog.replaceChildren(picture.cloneNode());
    dialog.firstChild.removeAttribute("role");
    dialog.firstChild.removeAttribute("tabindex");
    dialog.showModal();
  };
  picture.tabIndex = 0;
  picture.setAttribute("role", "button");
  picture.addEventListener("click", open);
  picture.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    open();
  });
}
