"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const parse = (id) => JSON.parse(document.getElementById(id).textContent);
  const settings = parse("attribeam-settings");
  root.classList.add("js");

  // -- Theme -------------------------------------------------------------------------------------------------
  const KEY = "attribeam-theme";
  const night = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  // A page opened from disk or inside a frame may have no storage; the choice is then not remembered.
  const stored = (act) => { try { return act(localStorage); } catch { return null; } };
  const chosenTheme = () => root.dataset.theme || (night.matches ? "dark" : "light");
  const setTheme = (name) => {
    if (name === "light" || name === "dark") root.dataset.theme = name; else delete root.dataset.theme;
    redraw();
  };
  for (const input of all(".theme input")) {
    input.addEventListener("change", () => {
      stored((storage) => storage.setItem(KEY, input.value));
      setTheme(input.value);
    });
  }
  night.addEventListener("change", () => redraw());

  // -- Charts ------------------------------------------------------------------------------------------------
  const MANY = 1500;
  // Widths of a full and of half a column on paper, in pixels.
  const [PRINTED, PRINTED_BESIDE] = [680, 320];
  let marks = 0;
  const rows = (columns) => {
    const names = Object.keys(columns);
    return columns[names[0]].map((_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]])));
  };
  const expanded = (value) => {
    if (Array.isArray(value)) return value.map(expanded);
    if (value === null || typeof value !== "object") return value;
    if (value.byColumn) {
      const { byColumn, ...rest } = value;
      value = { ...rest, values: rows(byColumn) };
    }
    if (Array.isArray(value.values)) {
      marks += value.values.length;
      return value;
    }
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, expanded(item)]));
  };

  // Charts grow with the page's type. Vega draws a canvas in the pixels of the screen, and asks the window how
  // many there are: one that is enlarged needs more.
  const zoomed = () => (printing ? 1 : parseFloat(getComputedStyle(root).fontSize) / 16);
  const pixels = Object.getOwnPropertyDescriptor(window, "devicePixelRatio");
  Object.defineProperty(window, "devicePixelRatio", {
    configurable: true,
    get: () => pixels.get.call(window) * (printing ? 3 : zoomed()),
  });

  const draw = async (chart) => {
    const outer = printing ? (chart.closest(".grid") ? PRINTED_BESIDE : PRINTED) : chart.clientWidth;
    if (!outer) return;
    const zoom = zoomed();
    const width = Math.floor(outer / zoom);
    chart.drawnAt = outer;
    marks = 0;
    const spec = expanded(parse(chart.dataset.spec));
    const column = spec.usermeta && spec.usermeta.column;
    if (column) {
      // If heat map columns were narrower than the height of their slanted names, the names would overlap.
      const most = Math.max(3, Math.floor((width * 0.65) / column));
      spec.data.values = spec.data.values.filter((cell) => cell.n < most);
    }
    const renderer = (spec.usermeta && spec.usermeta.renderer) || (marks > MANY ? "canvas" : "svg");
    if (spec.width === "container") {
      spec.width = width;
      spec.autosize = { type: "fit-x", contains: "padding", ...spec.autosize };
    }
    const config = structuredClone(settings[printing ? "light" : chosenTheme()]);
    // Limits the width of names in a narrow chart; the tooltip and the table have the full names.
    config.axisY.labelLimit = Math.min(config.axisY.labelLimit, Math.round(width * 0.4));
    config.axisX.titleLimit = width - 8;
    config.legend.titleLimit = Math.min(config.legend.titleLimit, width - 40);
    const inner = document.createElement("div");
    inner.setAttribute("aria-hidden", "true");
    // Vega compiles expressions to functions by default, which the page's content policy forbids; `ast` interprets them.
    const options = { mode: "vega-lite", ast: true, actions: false, defaultStyle: false, hover: false, logLevel: 1, tooltip: tip };
    const turn = chart.turn = (chart.turn || 0) + 1;
    const { view } = await vegaEmbed(inner, spec, { ...options, renderer, config });
    if (turn !== chart.turn) {
      view.finalize();
      return;
    }
    if (chart.view) chart.view.finalize();
    chart.view = view;
    chart.replaceChildren(inner);
    const drawing = inner.querySelector("svg, canvas");
    const size = renderer === "svg" ? (name) => drawing[name].baseVal.value : (name) => parseFloat(drawing.style[name]);
    const [wide, high] = [size("width"), size("height")];
    drawing.style.width = `${wide * zoom}px`;
    drawing.style.aspectRatio = `${wide} / ${high}`;
    chart.style.minHeight = "";
  };
  const tried = (chart) => draw(chart).catch((error) => {
    const said = document.createElement("p");
    said.className = "failed";
    said.textContent = "This chart could not be drawn here; its numbers are in the table.";
    chart.replaceChildren(said);
    chart.removeAttribute("role");
    console.error(chart.dataset.spec, error);
  });
  const charts = all(".chart");
  const redraw = () => { for (const chart of charts) if (chart.view) tried(chart); };

  for (const chart of charts) {
    const { height } = parse(chart.dataset.spec);
    if (typeof height === "number") chart.style.minHeight = `${height / 16}rem`;
  }
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting && !target.turn) tried(target);
  }, { rootMargin: "600px" });
  let waiting = 0;
  const resized = new ResizeObserver(() => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      for (const chart of charts) {
        const now = chart.clientWidth;
        if (chart.view && now && !printing && Math.abs(now - chart.drawnAt) > 1) tried(chart);
      }
    }, 120);
  });
  for (const chart of charts) {
    seen.observe(chart);
    resized.observe(chart);
  }

  // A printed page has all charts of the chosen options, in the light theme and at paper width. A chart without
  // anything to load is drawn before the browser goes on from here.
  addEventListener("beforeprint", () => {
    printing = true;
    for (const chart of charts) if (!chart.closest("[hidden]")) tried(chart);
  });
  addEventListener("afterprint", () => {
    printing = false;
    redraw();
  });

  // -- What is under the pointer -------------------------------------------------------------------------------
  const box = document.querySelector(".tip");
  function tip(handler, event, item, value) {
    if (value === null || value === undefined || value === "") {
      box.hidden = true;
      return;
    }
    const pairs = typeof value === "object" ? Object.entries(value) : [["", value]];
    box.replaceChildren(...pairs.flatMap(([name, text]) => {
      const [key, what] = [document.createElement("b"), document.createElement("span")];
      key.textContent = name;
      const isolate = document.createElement("bdi");
      isolate.textContent = String(text);
      what.append(isolate);
      return [key, what];
    }));
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const [x, y] = [event.clientX, event.clientY];
    box.style.left = `${Math.max(4, x + 14 + width > innerWidth ? x - width - 14 : x + 14)}px`;
    box.style.top = `${Math.max(4, y + 14 + height > innerHeight ? y - height - 14 : y + 14)}px`;
  }
  addEventListener("scroll", () => { box.hidden = true; }, { passive: true });

  // -- Choices -------------------------------------------------------------------------------------------------
  const plain = (name) => name.replace(/[\u2068\u2069]/g, "");
  const choices = all(".choice").map((choice) => {
    const options = [...choice.children].filter((child) => child.classList.contains("option"));
    const control = choice.querySelector(":scope > .segments, :scope > .select");
    const select = control.querySelector("select");
    const names = options.map((option) => plain(option.querySelector(":scope > .chosen bdi").textContent));
    return { options, control, select, names, label: choice.dataset.label };
  });
  const choose = ({ options, control, select }, at) => {
    options.forEach((option, place) => { option.hidden = place !== at; });
    if (select) select.selectedIndex = at; else control.querySelectorAll("input")[at].checked = true;
  };
  for (const choice of choices) {
    choice.control.hidden = false;
    choose(choice, 0);
    choice.control.addEventListener("change", (event) => {
      const before = choice.control.getBoundingClientRect().top;
      const at = Number(event.target.value);
      for (const other of choices) {
        const there = other === choice ? at : other.names.indexOf(choice.names[at]);
        if (other.label === choice.label && there >= 0) choose(other, there);
      }
      // A change higher up on the page must not move the part that the reader is looking at.
      scrollBy({ top: choice.control.getBoundingClientRect().top - before, behavior: "instant" });
    });
  }

  // -- Tables --------------------------------------------------------------------------------------------------
  const text = new Intl.Collator(undefined, { numeric: true });
  const value = (cell) => (cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v));
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return text.compare(String(a), String(b));
  };
  const empty = (cell) => cell === "" || Number.isNaN(cell);
  for (const table of all(".table")) {
    const body = table.querySelector("tbody");
    const heads = all("th", table);
    if (body.rows.length > 1) {
      heads.forEach((head, at) => {
        const button = document.createElement("button");
        button.type = "button";
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => {
          const before = head.getAttribute("aria-sort");
          const down = before ? before === "ascending" : head.classList.contains("n");
          for (const other of heads) other.removeAttribute("aria-sort");
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
          const keyed = [...body.rows].map((row) => [value(row.cells[at]), row]);
          keyed.sort(([a], [b]) => empty(a) - empty(b) || (down ? compare(b, a) : compare(a, b)));
          body.append(...keyed.map(([, row]) => row));
        });
      });
    }
    const search = table.querySelector(".search");
    if (!search) continue;
    search.hidden = false;
    const said = search.querySelector("output");
    search.querySelector("input").addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const line = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => line.includes(word));
        shown += !row.hidden;
      }
      said.textContent = words.length ? `${shown} of ${body.rows.length}` : "";
    });
  }

  // -- Where the reader is -------------------------------------------------------------------------------------
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const visible = new Set();
  const passed = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) visible.add(target.id); else visible.delete(target.id);
    }
    const current = [...links.keys()].find((id) => visible.has(id));
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-15% 0px -70% 0px" });
  for (const section of all("main > section")) passed.observe(section);

  const theme = stored((storage) => storage.getItem(KEY));
  const radio = all(".theme input").find((input) => input.value === theme);
  document.querySelector(".theme").hidden = false;
  if (radio) {
    radio.checked = true;
    setTheme(radio.value);
  }
})();
