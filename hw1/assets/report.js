"use strict";
// What the page is without: sorting, filtering, highlighting, another metric or axis, copying. All texts go in as text.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector, within = document) => within.querySelector(selector);
  const tip = one(".tip");
  const said = one("[data-said]");
  document.documentElement.classList.add("js-on");
  for (const element of all(".js")) element.hidden = false;

  // Print shows all; the screen begins with what matters.
  const closed = all("details[open]");
  for (const element of closed) element.open = false;
  addEventListener("beforeprint", () => { for (const element of closed) element.open = true; });
  addEventListener("afterprint", () => { for (const element of closed) element.open = false; });

  const make = (name, words = "", parent = null) => {
    const element = document.createElement(name);
    element.textContent = words;
    if (parent) parent.append(element);
    return element;
  };

  // Copies, and downloads of what is on the page

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // a page from a file may have no clipboard
      const area = make("textarea", text, document.body);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    said.textContent = "Copied";
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1200);
  }

  function svgOf(button) {
    const svg = one(".paper svg", button.closest("figure")).cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(/\s+/);
    svg.setAttribute("width", `${width}pt`);
    svg.setAttribute("height", `${height}pt`);
    return new XMLSerializer().serializeToString(svg);
  }

  for (const button of all("[data-copy-command]"))
    button.addEventListener("click", () => copy(one("[data-command]").textContent, button));
  for (const button of all("[data-copy-svg]")) button.addEventListener("click", () => copy(svgOf(button), button));
  for (const button of all("[data-save-svg]"))
    button.addEventListener("click", () => {
      const link = make("a");
      link.download = button.dataset.saveSvg;
      link.href = URL.createObjectURL(new Blob([svgOf(button)], { type: "image/svg+xml" }));
      link.click();
      URL.revokeObjectURL(link.href);
    });

  // Tooltip

  function showTip(words, x, y) {
    tip.textContent = words;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
    tip.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 10) : y + 18}px`;
  }
  const hideTip = () => { tip.hidden = true; };
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  addEventListener("scroll", hideTip, { passive: true });

  // A position on an axis, as hw1/report/chart.py computes it

  function place(axis, value) {
    if (value === null) return null;
    if (axis.log && value <= 0) return -10;
    const at = axis.log ? Math.log : (number) => number;
    const share = (at(value) - at(axis.low)) / (at(axis.high) - at(axis.low));
    return Math.min(Math.max(100 * share, -10), 110);
  }

  for (const section of all(".part")) part(section);

  function part(section) {
    const data = JSON.parse(one("script.data", section).textContent);
    const lines = all(".comparison tbody tr", section);

    // Highlighting: a condition is the same everywhere

    function pick(number) {
      const same = all(`[data-c="${number}"]`, section);
      const on = !same.some((element) => element.classList.contains("picked"));
      for (const element of all("[data-c]", section)) mark(element, on && element.dataset.c === number);
      said.textContent = on ? `${data.conditions[number].label} is highlighted` : "";
    }
    function mark(element, on) {
      element.classList.toggle("picked", on);
      if (element.hasAttribute("tabindex")) element.setAttribute("aria-pressed", String(on));
    }
    section.addEventListener("click", (event) => {
      const element = event.target.closest("[data-c]");
      if (element && !String(getSelection())) pick(element.dataset.c);
    });

    all(".chart", section).forEach((chart, place) => interactive(section, data, chart, place === 0, pick));
    if (lines.length) comparison(section, data, lines);
  }

  // A chart: tooltips, another metric, another axis

  function interactive(section, data, chart, first, pick) {
    const rows = all(".row", chart);
    let metric = Number(chart.dataset.shows);

    for (const row of rows) {
      const number = Number(row.dataset.c);
      row.setAttribute("role", "button");
      row.setAttribute("tabindex", "0");
      row.setAttribute("aria-pressed", "false");
      row.parentElement.removeAttribute("role");
      row.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        pick(row.dataset.c);
      });
      row.addEventListener("focus", () => {
        if (!row.matches(":focus-visible")) return;
        const { left, bottom } = row.getBoundingClientRect();
        showTip(whole(number), left, bottom - 18);
      });
      row.addEventListener("blur", hideTip);
      row.addEventListener("pointermove", (event) => showTip(under(row, number, event), event.clientX, event.clientY));
      row.addEventListener("pointerleave", hideTip);
    }

    function whole(number) {
      const shown = data.metrics[metric];
      const each = shown.values[number]
        .map((value, place) => (value === null ? null : `${data.replicates[place]}: ${value}`))
        .filter(Boolean);
      return [`${data.conditions[number].label}`, `${shown.label} ${shown.texts[number]}`, ...each.slice(0, 12)].join("\n");
    }
    function under(row, number, event) {
      const box = one(".strip", row).getBoundingClientRect();
      const at = (dot) => Math.abs((parseFloat(dot.getAttribute("cx")) / 100) * box.width + box.left - event.clientX);
      const dot = all(".dot", row).sort((a, b) => at(a) - at(b))[0];
      if (!dot || at(dot) > 7) return whole(number);
      const replicate = Number(dot.dataset.r);
      const value = data.metrics[metric].values[number][replicate];
      return `${data.conditions[number].label}\n${data.replicates[replicate]}: ${value}`;
    }

    function draw(kind) {
      const shown = data.metrics[metric];
      const axis = shown.axes[kind];
      for (const element of all("[data-metric-label]", chart)) element.textContent = shown.label;
      one("[data-definition]", chart).textContent = shown.definition;
      for (const row of rows) {
        const number = Number(row.dataset.c);
        const [mean, low, high] = shown.intervals[number].map((value) => place(axis, value));
        set(one(".interval", row), low !== null && high !== null, { x1: low, x2: high });
        set(one(".mean", row), mean !== null, { cx: mean });
        for (const dot of all(".dot", row)) {
          const at = place(axis, shown.values[number][Number(dot.dataset.r)]);
          set(dot, at !== null, { cx: at });
        }
      }
      for (const row of rows) write(row, shown);
      if (first) {  // the matrix goes with the first chart
        for (const cell of all(".matrix td[data-c]", section)) {
          write(cell, shown);
          cell.style.setProperty("--shade", shown.shades[Number(cell.dataset.c)] ?? 0);
        }
        for (const element of all(".matrices [data-metric-label]", section)) element.textContent = shown.label;
      }
      const ticks = one(".ticks", chart);
      ticks.textContent = "";
      for (const [at, label] of axis.ticks) make("span", label, ticks).style.left = `${at}%`;
      for (const button of all("[data-axis]", chart)) {
        button.disabled = !(button.dataset.axis in shown.axes);
        button.setAttribute("aria-pressed", String(button.dataset.axis === kind));
      }
    }
    function set(element, there, attributes) {
      if (!element) return;
      element.style.display = there ? "" : "none";
      if (there) for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, `${value}%`);
    }
    function write(element, shown) {
      const number = Number(element.dataset.c);
      one("[data-text]", element).textContent = shown.texts[number];
      const sign = shown.marks[number];
      const span = one("[data-mark]", element);
      span.textContent = "";
      if (sign) Object.assign(make("span", sign, span), {
        className: sign === "*" ? "mark best" : "mark",
        title: sign === "*" ? "best" : "not told apart from the best",
      });
    }

    // A row has every mark that some metric may need.
    for (const row of rows) {
      const svg = one(".strip", row);
      const add = (name, attributes) => {
        const element = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
        svg.append(element);
      };
      if (!one(".interval", row)) add("line", { class: "interval", y1: 10, y2: 10 });
      if (!one(".mean", row)) add("circle", { class: "mean", cy: 10, r: 5 });
      data.replicates.forEach((_, number) => {
        if (!one(`.dot[data-r="${number}"]`, row)) add("circle", { class: "dot", "data-r": number, cy: 20, r: 3 });
      });
    }
    const chooser = one("[data-metric]", chart);
    chooser.addEventListener("change", () => {
      metric = Number(chooser.value);
      draw(data.metrics[metric].shown);
    });
    for (const button of all("[data-axis]", chart)) button.addEventListener("click", () => draw(button.dataset.axis));
    chooser.value = chart.dataset.shows;
    draw(data.metrics[metric].shown);
  }

  // The table: sorting, filtering, columns

  function comparison(section, data, lines) {
    const table = one(".comparison", section);
    const body = one("tbody", table);
    const compare = (a, b) => {
      const [first, second] = [Number(a), Number(b)];
      const missing = (a === "") - (b === "");
      if (missing || (a === "" && b === "")) return { missing };
      const numbers = !Number.isNaN(first) && !Number.isNaN(second);
      return { order: numbers ? first - second : a.localeCompare(b, undefined, { numeric: true }) };
    };
    all("thead th", table).forEach((head, column) => {
      const button = make("button", head.textContent);
      button.type = "button";
      head.textContent = "";
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (line) => line.children[column].dataset.v ?? line.children[column].textContent;
        const sorted = [...lines].sort((a, b) => {
          const { missing, order } = compare(value(a), value(b));
          return missing ?? (down ? -order : order);  // what has no value comes last either way
        });
        body.append(...sorted);
      });
    });

    // Filtering: words, and key=value

    const filter = one("[data-filter]", section);
    const count = one("[data-count]", section);
    const sameValue = (there, wanted) =>
      there === wanted || (wanted !== "" && there !== "" && Number(there) === Number(wanted));
    function fits(number, line, word) {
      const [key, ...rest] = word.split("=");
      const values = data.conditions[number].values;
      const named = Object.keys(values).find((name) => name === key || name.endsWith(`.${key}`));
      if (rest.length && named) return sameValue(values[named], rest.join("="));
      const text = `${data.conditions[number].label} ${line.textContent}`;
      return text.toLowerCase().includes(word.toLowerCase());
    }
    function apply() {
      const words = filter.value.trim().split(/\s+/).filter(Boolean);
      let left = 0;
      for (const line of lines) {
        const there = words.every((word) => fits(Number(line.dataset.c), line, word));
        left += there;
        for (const element of all(`tr[data-c="${line.dataset.c}"], .row[data-c="${line.dataset.c}"]`, section))
          element.hidden = !there;
      }
      count.textContent = `${left} of ${lines.length} conditions`;
    }
    filter.addEventListener("input", apply);
    filter.value = "";
    apply();

    // Columns

    const chooser = one("[data-columns]", section);
    const show = (number, on) => {
      for (const cell of all(`[data-m="${number}"]`, table)) cell.hidden = !on;
    };
    if (chooser)
      data.metrics.forEach((each, number) => {
        const label = make("label", "", chooser);
        const box = make("input", "", label);
        box.type = "checkbox";
        box.checked = number < Number(table.dataset.shown);
        label.append(` ${each.label}`);
        box.addEventListener("change", () => show(number, box.checked));
        show(number, box.checked);
      });
  }
})();
