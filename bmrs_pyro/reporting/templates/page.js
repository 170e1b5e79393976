// A click on a heading sorts its table; again, the other way round. Without scripts the tables stand as they are.
const number = (text) => parseFloat(text.replace(/[,\s]/g, "").replace("−", "-"));
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) || a.localeCompare(b) : x - y;
};
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (!heading.textContent) return;
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.ariaSort === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.ariaSort = down ? "descending" : "ascending";
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(a.cells[column].textContent, b.cells[column].textContent));
      table.tBodies[0].append(...(down ? rows.reverse() : rows));
    });
  });
}
// A point of the path that the pointer or the keyboard is on shows its row.
for (const point of document.querySelectorAll("[data-row]")) {
  const row = document.getElementById(point.dataset.row);
  const show = (on) => () => row.classList.toggle("here", on);
  for (const event of ["focus", "pointerenter"]) point.addEventListener(event, show(true));
  for (const event of ["blur", "pointerleave"]) point.addEventListener(event, show(false));
}
