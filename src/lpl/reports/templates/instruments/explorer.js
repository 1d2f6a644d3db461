/* What the instruments' views share: pickers above, and a pane for each of two analyses that the same choice drives. */

const SVG = "http://www.w3.org/2000/svg";
const RAMP = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"]; // viridis
const LUT = Array.from({ length: 256 }, (_, grey) => mixed(grey / 255)); // a colour for each grey value
const inlined = { uris: null, images: new Map() };

/* Sets up a view. `first(folders)` gives the choice to begin with. After every change of it, `draw(pane, folder, state,
   update, shown)` fills each pane that is shown, and `after(shown, state, update)` what lies outside of panes. */
function explore(box, { first, draw, after = () => {} }) {
  const { folders, ...rest } = JSON.parse(box.querySelector(":scope > script").textContent);
  const panes = [...box.querySelectorAll(".pane")];
  const forms = [...box.querySelectorAll("form")];
  const state = { left: 0, right: Math.min(1, folders.length - 1), ...rest, ...first(folders) };
  const update = changes => {
    if ("left" in changes && changes.left === state.right) changes.right = state.left;
    if ("right" in changes && changes.right === state.left) changes.left = state.right;
    Object.assign(state, changes);
    const shown = [...new Set([state.left, state.right])];
    forms.forEach(form => reflect(form, state));
    panes.forEach((pane, index) => {
      pane.hidden = index !== state.left && index !== state.right;
      pane.style.order = index === state.left ? 0 : 1;
      if (!pane.hidden) draw(pane, folders[index], state, update, shown.map(place => folders[place]));
    });
    after(shown.map(index => folders[index]), state, update);
  };
  for (const form of forms) {
    form.hidden = false;
    form.addEventListener("submit", event => event.preventDefault());
    form.addEventListener("input", event => {
      const control = event.target;
      const value = control.type === "checkbox" ? control.checked : control.value;
      update({ [control.name]: typeof state[control.name] === "number" ? Number(value) : value });
    });
  }
  box.hidden = false;
  const strip = box.querySelector(".panes");
  strip.hidden = false;
  strip.classList.toggle("single", folders.length === 1);
  update({});
}

/* Sets the controls to the choice, however it was made. */
function reflect(form, state) {
  for (const control of form.elements) {
    if (!(control.name in state)) continue;
    if (control.type === "radio") control.checked = control.value === String(state[control.name]);
    else if (control.type === "checkbox") control.checked = state[control.name];
    else control.value = state[control.name];
  }
}

/* A grid of cells of which one is chosen: with the pointer, or with arrow keys, Home, End and page keys. */
function chooser(box, rows, columns, choose) {
  const shape = `${rows}x${columns}`;
  box.choose = choose;
  if (box.dataset.shape === shape) return box.cells;
  const cells = [];
  box.dataset.shape = shape;
  box.setAttribute("role", "grid");
  box.ariaLabel = box.dataset.label;
  box.style.setProperty("--columns", columns);
  box.replaceChildren(...Array.from({ length: rows }, (_, row) => {
    const strip = document.createElement("div");
    strip.setAttribute("role", "row");
    for (let column = 0; column < columns; column += 1) {
      const cell = document.createElement("div");
      cell.setAttribute("role", "gridcell");
      cell.dataset.row = row;
      cell.dataset.column = column;
      cell.tabIndex = -1;
      cells.push(cell);
      strip.append(cell);
    }
    return strip;
  }));
  box.cells = cells;
  const usable = cell => cell && cell.ariaDisabled !== "true";
  const take = cell => {
    if (!usable(cell)) return;
    cell.focus();
    box.choose(Number(cell.dataset.row), Number(cell.dataset.column));
  };
  box.addEventListener("click", event => take(event.target.closest("[role=gridcell]")));
  box.addEventListener("keydown", event => {
    const cell = event.target.closest("[role=gridcell]");
    const row = Number(cell.dataset.row);
    const column = Number(cell.dataset.column);
    const whole = event.ctrlKey || event.metaKey;
    const moves = {
      ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      Home: [whole ? -rows : 0, -columns], End: [whole ? rows : 0, columns], PageUp: [-4, 0], PageDown: [4, 0],
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    take(reach(box, row, column, move, usable));
  });
  return cells;
}

/* The cell that a move ends on: the nearest usable one at or beyond, else at or before, where it leads. */
function reach(box, row, column, [down, across], usable) {
  const rows = box.children.length;
  const columns = box.cells.length / rows;
  const limit = (value, most) => Math.max(0, Math.min(most - 1, value));
  const at = (r, c) => box.cells[r * columns + c];
  const target = [limit(row + down, rows), limit(column + across, columns)];
  const step = [Math.sign(down), Math.sign(across)];
  for (let [r, c] = target; r >= 0 && c >= 0 && r < rows && c < columns; r += step[0], c += step[1]) if (usable(at(r, c))) return at(r, c);
  for (let [r, c] = target; r !== row || c !== column; r -= Math.sign(r - row), c -= Math.sign(c - column)) if (usable(at(r, c))) return at(r, c);
  return null;
}

/* Marks the cell that is chosen; it alone is in the order of the tab key. */
function markChosen(cells, index) {
  cells.forEach((cell, place) => {
    cell.ariaSelected = String(place === index);
    cell.tabIndex = place === index ? 0 : -1;
  });
}

/* Red, green and blue of the ramp, for a share of 0 to 1. */
function mixed(share) {
  const place = Math.max(0, Math.min(1, share)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(place));
  return [1, 3, 5].map(at => {
    const [from, to] = [RAMP[low], RAMP[low + 1]].map(colour => parseInt(colour.slice(at, at + 2), 16));
    return Math.round(from + (to - from) * (place - low));
  });
}

function ramp(share) {
  return `rgb(${mixed(share).join(" ")})`;
}

function uri(key) {
  inlined.uris ??= JSON.parse(document.getElementById("inlined")?.textContent ?? "{}");
  return inlined.uris[key];
}

/* The decoded picture of a key, or null where the page has none. */
async function picture(key) {
  const source = key === null || key === undefined ? undefined : uri(key);
  if (!source) return null;
  if (!inlined.images.has(key)) {
    const image = new Image();
    image.src = source;
    inlined.images.set(key, image.decode().then(() => image, () => null));
  }
  return inlined.images.get(key);
}

/* Draws a picture, or one tile of a sprite, into a frame; says so where the page does not have it.
   `tile` is { index, columns, aspect }; `colours` has red, green and blue for each of 256 grey values. */
async function show(frame, key, { tile = null, colours = null, label = "" } = {}) {
  const canvas = frame.querySelector("canvas");
  const gone = frame.querySelector(".gone");
  const wanted = `${key} ${tile?.index} ${colours ? 1 : 0}`;
  if (label) canvas.ariaLabel = label;
  if (canvas.dataset.wanted === wanted) return;
  canvas.dataset.wanted = wanted;
  const image = await picture(key);
  if (canvas.dataset.wanted !== wanted) return; // another was chosen meanwhile
  gone.hidden = image !== null;
  canvas.hidden = image === null;
  if (!image) return;
  const width = tile ? Math.round(image.naturalWidth / tile.columns) : image.naturalWidth;
  const height = tile ? Math.round(width * tile.aspect) : image.naturalHeight;
  Object.assign(canvas, { width, height });
  canvas.classList.toggle("coarse", Math.max(width, height) <= 128);
  const left = tile ? tile.index % tile.columns * width : 0;
  const top = tile ? Math.floor(tile.index / tile.columns) * height : 0;
  const context = canvas.getContext("2d", { willReadFrequently: Boolean(colours) });
  context.clearRect(0, 0, width, height);
  context.drawImage(image, left, top, width, height, 0, 0, width, height);
  if (colours) recolour(context, width, height, colours);
}

function recolour(context, width, height, colours) {
  const pixels = context.getImageData(0, 0, width, height);
  for (let at = 0; at < pixels.data.length; at += 4) pixels.data.set(colours[pixels.data[at]], at);
  context.putImageData(pixels, 0, 0);
}

/* Says in a pane why it has nothing to show; without a reason it shows its parts. */
function lack(pane, reason = "") {
  pane.classList.toggle("lacking", Boolean(reason));
  if (reason) pane.dataset.reason = reason;
  return Boolean(reason);
}

/* Fills a table with rows of texts, the first of each its heading. */
function fillNumbers(table, rows) {
  table.tBodies[0].replaceChildren(...rows.map(([name, ...cells]) => {
    const row = document.createElement("tr");
    const heading = document.createElement("th");
    heading.scope = "row";
    heading.append(name);
    row.append(heading, ...cells.map(cell => {
      const entry = document.createElement("td");
      entry.append(cell);
      return entry;
    }));
    return row;
  }));
}

/* A number to some significant digits. */
function number(value, digits = 3) {
  if (value === null || value === undefined) return "\u2013";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return scientific(value, digits);
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return grouped(Number(value.toPrecision(digits)), decimals);
}

/* Numbers that stand in one column: as many decimals as give the largest its digits. */
function aligned(values, digits = 3) {
  const sizes = values.filter(value => value !== null).map(Math.abs);
  const most = Math.max(...sizes, 0);
  if (most === 0 || most < 1e-3 || most >= 1e6) return values.map(value => number(value, digits));
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(most)));
  return values.map(value => value === null ? "\u2013" : grouped(value, decimals));
}

/* A round number as it is: of a tick, or a setting. */
function plain(value) {
  return Math.abs(value) >= 1e-3 || value === 0 ? value.toLocaleString("en", { maximumSignificantDigits: 6 }).replace("-", "\u2212") : scientific(value, 1);
}

function grouped(value, decimals) {
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).replace(/^-(?=.*[1-9])/, "\u2212").replace("-", "");
}

function scientific(value, digits) {
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const raised = exponent.replace("+", "").replace(/[-\d]/g, sign => "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"["-0123456789".indexOf(sign)]);
  return mantissa === "1" ? `10${raised}` : `${mantissa.replace("-", "\u2212")}\u00d710${raised}`;
}

function percent(share) {
  if (share === null || share === undefined) return "\u2013";
  const value = 100 * share;
  const size = Math.abs(value);
  return `${value.toFixed(size >= 10 || size === 0 ? 0 : size >= 1 ? 1 : 2).replace("-", "\u2212")}\u00a0%`;
}

/* Position of each value when sorted: 1 for the least. */
function ranks(values) {
  const order = values.map((value, index) => [value ?? Infinity, index]).sort((a, b) => a[0] - b[0]);
  const found = new Array(values.length);
  order.forEach(([, index], place) => { found[index] = place + 1; });
  return found;
}

function make(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
