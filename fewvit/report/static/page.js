"use strict";
// Sorting and filtering of the table; without it the page shows every row.
(() => {
  const table = document.getElementById("rows"), form = document.getElementById("filters");
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  const rows = [...body.rows].map((row, place) => {
    const words = [...row.cells].map((cell) => cell.textContent);
    return { row, place, words, all: words.join("\u0001").toLowerCase() };
  });
  const CHOOSABLE = ["task", "dataset", "backbone", "protocol", "method", "shots", "metric", "seen_in_pretraining"];
  const MOST = 200;
  const trial = names.indexOf("trial");
  const chosen = new Map();

  const labelled = (text, element) => {
    const label = document.createElement("label");
    label.append(text, element);
    form.append(label);
    return element;
  };
  const option = (value, text) => {
    const one = document.createElement("option");
    one.value = value;
    one.textContent = text;
    return one;
  };
  const compared = (a, b) => a.localeCompare(b, "en", { numeric: true });

  const search = labelled("Search", document.createElement("input"));
  search.type = "search";
  search.id = "search";
  search.placeholder = "words, all of which must be there";
  names.forEach((name, at) => {
    if (!CHOOSABLE.includes(name)) return;
    const values = [...new Set(rows.map((one) => one.words[at]))];
    if (values.length < 2 || values.length > MOST) return;
    const select = labelled(name, document.createElement("select"));
    select.name = name;
    select.append(option("all", "all"), ...values.sort(compared).map((value) => option("=" + value, value || "none")));
    chosen.set(at, select);
  });
  let draws = null;
  if (trial >= 0 && rows.some((one) => /^\d+$/.test(one.words[trial]))) {
    draws = labelled("trials", document.createElement("select"));
    draws.name = "trials";
    draws.append(option("means", "means alone"), option("all", "every draw"));
  }
  const reset = document.createElement("button");
  reset.type = "reset";
  reset.textContent = "Show all";
  const count = document.createElement("output");
  form.append(reset, count);
  form.hidden = false;

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = [...chosen].filter(([, select]) => select.value !== "all").map(([at, select]) => [at, select.value.slice(1)]);
    const means = draws !== null && draws.value === "means";
    let shown = 0;
    for (const one of rows) {
      const fits = words.every((word) => one.all.includes(word)) && wanted.every(([at, value]) => one.words[at] === value)
        && !(means && /^\d+$/.test(one.words[trial]));
      one.row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };

  const number = (text) => text.trim() === "" ? NaN : Number(text);
  const sort = (at, down) => {
    const isNumber = rows.every((one) => one.words[at] === "" || !Number.isNaN(number(one.words[at])));
    const order = (a, b) => {
      const [x, y] = [a.words[at], b.words[at]];
      if (x === y) return a.place - b.place;
      if (x === "" || y === "") return x === "" ? 1 : -1; // what has no value comes last, either way
      return (isNumber ? number(x) - number(y) : compared(x, y)) * (down ? -1 : 1) || a.place - b.place;
    };
    body.append(...[...rows].sort(order).map((one) => one.row));
  };
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = names[at];
    button.title = "Sort by " + names[at];
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(at, down);
    });
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { if (draws) draws.value = "all"; filter(); }));
  filter();
})();
