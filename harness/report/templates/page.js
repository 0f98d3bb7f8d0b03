"use strict";
// What the page can do without: what a mark says below its figure, arrow keys from mark to mark, sorting, filtering.
for (const plot of document.querySelectorAll(".plot")) {
  const marks = [...plot.querySelectorAll(".mark")];
  if (!marks.length) continue;
  const told = document.createElement("output");
  told.className = "told";
  const idle = "Point at a mark, or reach it by Tab and the arrow keys, for its figures.";
  told.textContent = idle;
  plot.parentElement.append(told);
  const tell = (mark) => {
    const lines = mark.dataset.detail.split("\n");
    told.classList.add("filled");
    told.replaceChildren();
    for (const line of lines) {
      const part = document.createElement(line.startsWith("python -m ") ? "code" : "div");
      part.textContent = line;
      told.append(part);
    }
  };
  const left = (at) => parseFloat(at.getAttribute("x"));
  marks.sort((a, b) => left(a) - left(b) || parseFloat(a.getAttribute("y")) - parseFloat(b.getAttribute("y")));
  marks.forEach((mark, i) => {
    mark.querySelector("title").remove(); // said below the figure instead
    mark.setAttribute("tabindex", i ? "-1" : "0");
    mark.addEventListener("pointerenter", () => tell(mark));
    mark.addEventListener("focus", () => tell(mark));
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = step && marks[i + step];
      if (!next) return;
      event.preventDefault();
      mark.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}
for (const table of document.querySelectorAll("table.raw")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numbers = rows.some((row) => row.cells[column].dataset.value);
      const key = (row) => {
        const cell = row.cells[column];
        return numbers ? parseFloat(cell.dataset.value ?? "NaN") : cell.textContent;
      };
      const sign = down ? -1 : 1;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (!numbers) return sign * x.localeCompare(y);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // none stands last
        return sign * (x - y);
      };
      body.append(...rows.sort(order));
    });
  });
  const filter = document.createElement("div");
  filter.className = "filter";
  const label = document.createElement("label");
  label.textContent = "Rows that hold ";
  const input = document.createElement("input");
  input.type = "search";
  input.placeholder = "words, such as fff_cpu 1024";
  label.append(input);
  const count = document.createElement("output");
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} cells`;
  };
  input.addEventListener("input", show);
  show();
  filter.append(label, count);
  table.parentElement.before(filter);
}
