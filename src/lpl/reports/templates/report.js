"use strict";
/* Every part of the page that moves is a widget: an element with data-widget, set up by the function of that name.
   The sections' own scripts follow this one and add theirs; then the page calls start. */

const widgets = { theme, pairs, clock, plot };
const FIRST_PAIRS = 12;
const PAIR_WORDS = {
  wipe: [" left of the line, ", " right of it"],
  sides: [" on the left, ", " on the right"],
  difference: [" and ", ": their absolute difference, 4 times as bright"],
};

function start() {
  for (const element of document.querySelectorAll("[data-widget]")) widgets[element.dataset.widget](element);
  markCurrentSection();
}

/* The button between light and dark. */
function theme(button) {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const current = () => root.dataset.theme ?? (system.matches ? "dark" : "light");
  const show = () => { button.textContent = current() === "dark" ? "Light" : "Dark"; button.ariaLabel = `Switch to the ${button.textContent.toLowerCase()} theme`; };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    try { localStorage.setItem("lpl-theme", root.dataset.theme); } catch { /* not remembered, still switched */ }
    show();
  });
  system.addEventListener("change", show);
  show();
}

/* Pairs of pictures: which two runs, how they are shown, and a slider over each. */
function pairs(box) {
  const items = [...box.querySelectorAll(".tiles > li")];
  foldAfter(box, items, FIRST_PAIRS);
  const form = box.querySelector("form");
  if (!form) return;
  const names = new Map([...form.elements.left.options].map(option => [option.value, option.text]));
  const colours = new Map([...box.querySelectorAll("[data-colour]")].map(mark => [mark.dataset.run, mark.dataset.colour]));
  const sliders = [...box.querySelectorAll(".stage input")];

  const wipe = (slider, value) => {
    slider.value = value;
    slider.closest(".stage").style.setProperty("--wipe", `${value}%`);
    slider.setAttribute("aria-valuetext", `${value} % ${names.get(box.dataset.left)}`);
  };
  const place = () => {
    let lacking = 0;
    for (const item of items) {
      for (const image of item.querySelectorAll("img")) {
        const side = ["left", "right"].find(name => box.dataset[name] === image.dataset.run);
        if (side) image.dataset.place = side; else delete image.dataset.place;
      }
      const complete = item.querySelectorAll("img[data-place]").length === 2;
      item.classList.toggle("lacking", !complete);
      lacking += !complete;
    }
    describe(lacking);
    sliders.forEach(slider => wipe(slider, slider.value));
  };
  const describe = lacking => {
    for (const side of ["left", "right"]) {
      const label = box.querySelector(`[data-name="${side}"]`);
      label.lastElementChild.textContent = names.get(box.dataset[side]);
      label.firstElementChild.className = `swatch ${colours.get(box.dataset[side])}`;
      form.elements[side].value = box.dataset[side];
    }
    const [between, after] = PAIR_WORDS[box.dataset.view];
    const absent = lacking ? `; ${lacking} of ${items.length} samples have no such pair` : "";
    box.querySelector('[data-name="between"]').textContent = between;
    box.querySelector('[data-name="after"]').textContent = `${after}${absent}.`;
  };
  const choose = (side, run) => {
    const other = side === "left" ? "right" : "left";
    if (box.dataset[other] === run) box.dataset[other] = box.dataset[side];
    box.dataset[side] = run;
    place();
  };

  sliders.forEach(slider => slider.addEventListener("input", () => wipe(slider, slider.value)));
  form.elements.all.addEventListener("input", event => sliders.forEach(slider => wipe(slider, event.target.value)));
  form.elements.swap.addEventListener("click", () => choose("left", box.dataset.right));
  for (const side of ["left", "right"]) form.elements[side].addEventListener("change", event => choose(side, event.target.value));
  for (const radio of form.elements.view) radio.addEventListener("change", () => {
    box.dataset.view = radio.value;
    form.elements.all.disabled = radio.value !== "wipe";
    place();
  });
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  box.dataset.view = "wipe";
  place();
}

/* Shows the first items of a long list, and a button for the rest. */
function foldAfter(box, items, count) {
  const button = box.querySelector(".more");
  const rest = items.slice(count);
  if (!rest.length) return;
  rest.forEach(item => { item.hidden = true; });
  button.hidden = false;
  button.textContent = `Show all ${items.length}`;
  button.addEventListener("click", () => {
    rest.forEach(item => { item.hidden = false; });
    button.hidden = true;
    (rest[0].querySelector("input") ?? rest[0]).focus();
  });
}

/* The switch between steps and time, for all charts below it that have both. */
function clock(box) {
  const field = box.querySelector("fieldset");
  if (!box.querySelector('[data-clock="seconds"]')) return;
  field.hidden = false;
  field.addEventListener("change", event => {
    for (const figure of box.querySelectorAll(".panel")) {
      const plots = [...figure.querySelectorAll(".plot")];
      const wanted = plots.find(element => element.dataset.clock === event.target.value) ?? plots[0];
      plots.forEach(element => { element.hidden = element !== wanted; });
    }
  });
}

/* Reads values off a chart, under the pointer or with the arrow keys. */
function plot(box) {
  const svg = box.querySelector("svg");
  const data = JSON.parse(box.querySelector("script").textContent);
  const cursor = svg.querySelector(".cursor");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  box.append(tip);
  const stops = [...new Set(data.lines.flatMap(line => line.x))].filter(value => value !== null).sort((a, b) => a - b);
  let stop = stops.length - 1;

  const show = index => {
    stop = Math.max(0, Math.min(stops.length - 1, index));
    const at = stops[stop];
    const found = data.lines.map(line => nearest(line, at)).filter(Boolean);
    drawCursor(svg, cursor, data, at, found);
    fillTip(tip, data, at, found);
    const share = across(data, at) / svg.viewBox.baseVal.width;
    tip.style.left = share < .5 ? `calc(${100 * share}% + 12px)` : "auto";
    tip.style.right = share < .5 ? "auto" : `calc(${100 * (1 - share)}% + 12px)`;
  };
  const hide = () => { tip.hidden = true; cursor.replaceChildren(); };

  svg.tabIndex = 0;
  svg.addEventListener("pointermove", event => {
    const area = svg.getBoundingClientRect();
    const x = (event.clientX - area.left) / area.width * svg.viewBox.baseVal.width;
    let best = 0;
    stops.forEach((value, index) => { if (Math.abs(across(data, value) - x) < Math.abs(across(data, stops[best]) - x)) best = index; });
    show(best);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(stop); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const moves = { ArrowLeft: stop - 1, ArrowRight: stop + 1, Home: 0, End: stops.length - 1, PageUp: stop + 10, PageDown: stop - 10 };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
}

/* The point of a line that is nearest in x, if the line reaches that far. */
function nearest(line, at) {
  let best = -1;
  line.x.forEach((value, index) => {
    if (line.y[index] !== null && (best < 0 || Math.abs(value - at) < Math.abs(line.x[best] - at))) best = index;
  });
  if (best < 0 || at < line.x[0] || at > line.x[line.x.length - 1]) return null;
  return { label: line.label, colour: line.colour, x: line.x[best], y: line.y[best] };
}

function fraction(axis, value) {
  if (axis.scale === "log") return Math.log(value / axis.low) / Math.log(axis.high / axis.low);
  return (value - axis.low) / (axis.high - axis.low);
}

function across(data, value) {
  return data.frame[0] + fraction(data.x, value) * (data.frame[2] - data.frame[0]);
}

function down(data, value) {
  return data.frame[3] - fraction(data.y, value) * (data.frame[3] - data.frame[1]);
}

function drawCursor(svg, cursor, data, at, found) {
  const make = (tag, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const x = across(data, at);
  const dots = found
    .map(point => ({ ...point, row: down(data, point.y) }))
    .filter(point => point.row >= data.frame[1] && point.row <= data.frame[3])
    .map(point => make("circle", { class: point.colour, cx: across(data, point.x), cy: point.row, r: 4 }));
  cursor.replaceChildren(make("line", { x1: x, x2: x, y1: data.frame[1], y2: data.frame[3] }), ...dots);
}

function fillTip(tip, data, at, found) {
  const heading = document.createElement("b");
  heading.textContent = `${data.x.label}: ${readable(at)}`;
  const table = document.createElement("table");
  for (const point of found) {
    const row = table.insertRow();
    const label = document.createElement("th");
    const mark = document.createElement("span");
    mark.className = `swatch ${point.colour}`;
    label.append(mark, point.label);
    row.append(label);
    row.insertCell().textContent = readable(point.y);
  }
  tip.replaceChildren(heading, table);
  tip.hidden = false;
}

function readable(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace("-", "\u2212");
  return value.toLocaleString("en", { maximumSignificantDigits: size >= 1000 ? 6 : 4 }).replace("-", "\u2212");
}

/* Underlines where one is, in the navigation. */
function markCurrentSection() {
  const links = new Map([...document.querySelectorAll(".bar a")].map(link => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver(entries => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach(link => link.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  document.querySelectorAll("main > section").forEach(section => observer.observe(section));
}
