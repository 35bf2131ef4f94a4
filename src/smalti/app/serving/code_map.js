// Draws the planes of codes in props.value (see code_map.py), and reports clicks and strokes.
const HOLE = -1;
const planes = element.querySelector(".planes");
const tip = element.querySelector(".tip");
const brush = element.querySelector("[name=brush]");
const size = element.querySelector("[name=size]");
const modes = [...element.querySelectorAll("[name=mode]")];
let map = null;
let stroke = null;
let last = null;

const colour = (code) => code === HOLE ? "#ffffff" : `hsl(${(code * 137.508) % 360} 55% ${45 + (code % 3) * 10}%)`;
const mode = () => modes.find((one) => one.getAttribute("aria-pressed") === "true").value;

function choose(name) {
  modes.forEach((one) => one.setAttribute("aria-pressed", String(one.value === name)));
}

function cells() {
  const widest = map.rows === 1 || map.is_band ? 1040 : 360;
  const width = Math.max(map.is_band ? 3 : 5, Math.min(30, Math.floor(widest / map.cols)));
  return [width, map.is_band ? 18 : width];
}

function draw(lit, book) {
  const [width, height] = cells();
  planes.querySelectorAll("canvas").forEach((canvas, plane) => {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (let row = 0; row < map.rows; row++) {
      for (let column = 0; column < map.cols; column++) {
        const code = map.codes[(plane * map.rows + row) * map.cols + column];
        const [x, y] = [column * width, row * height];
        context.fillStyle = colour(code);
        context.fillRect(x, y, width - (width > 6), height - (height > 6));
        if (code === HOLE) {
          context.strokeStyle = "#1f3a5f";
          context.beginPath();
          context.moveTo(x, y + height);
          context.lineTo(x + width, y);
          context.stroke();
        } else if (code === lit && codebook((plane * map.rows + row) * map.cols + column) === book) {
          context.lineWidth = 2;
          context.strokeStyle = "#111111";
          context.strokeRect(x + 1, y + 1, width - 2, height - 2);
          context.lineWidth = 1;
        }
      }
    }
  });
}

function show() {
  map = props.value && props.value.codes ? props.value : null;
  planes.replaceChildren();
  element.querySelector(".tools").hidden = !map;
  if (!map) return;
  const [width, height] = cells();
  element.querySelector("[value=erase]").hidden = !map.has_holes;
  element.querySelector("[value=paint]").hidden = !map.is_editable;
  brush.max = map.num_codes - 1;
  map.titles.forEach((title, plane) => {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    canvas.width = map.cols * width;
    canvas.height = map.rows * height;
    canvas.dataset.plane = plane;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${title}: ${map.rows} x ${map.cols} codes`);
    caption.textContent = title;
    figure.append(canvas, caption);
    planes.append(figure);
  });
  draw();
}

function found(event) {
  const canvas = event.target;
  if (!map || canvas.tagName !== "CANVAS") return null;
  const [width, height] = cells();
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) * canvas.width / box.width / width);
  const row = Math.floor((event.clientY - box.top) * canvas.height / box.height / height);
  if (column < 0 || row < 0 || column >= map.cols || row >= map.rows) return null;
  const plane = Number(canvas.dataset.plane);
  return { plane, row, column, place: (plane * map.rows + row) * map.cols + column };
}

function codebook(place) {
  return Math.floor(place / (map.codes.length / map.num_codebooks));
}

function hover(event, at) {
  const code = map.codes[at.place];
  tip.hidden = false;
  const host = element.getBoundingClientRect();
  tip.style.left = `${event.clientX - host.left + 16}px`;
  tip.style.top = `${event.clientY - host.top + 16}px`;
  const tile = tip.querySelector(".tile");
  const entry = codebook(at.place) * map.num_codes + code;
  tile.hidden = !(map.tiles && code !== HOLE);
  if (!tile.hidden) {
    const { src, width, height, columns, rows } = map.tiles;
    const zoom = 72 / Math.max(width, height);
    tile.style.cssText = `width:${width * zoom}px;height:${height * zoom}px;image-rendering:pixelated;` +
      `background:url(${src}) -${(entry % columns) * width * zoom}px -${Math.floor(entry / columns) * height * zoom}px / ` +
      `${columns * width * zoom}px ${rows * height * zoom}px`;
  }
  const share = map.shares && code !== HOLE ? `, ${(100 * map.shares[entry]).toPrecision(2)} % of the training codes` : "";
  tip.querySelector(".words").textContent = code === HOLE ? "hole" : `code ${code}${share}`;
  draw(code, codebook(at.place));
}

function line(from, to) {
  const steps = Math.max(Math.abs(to.row - from.row), Math.abs(to.column - from.column), 1);
  for (let step = 1; step <= steps; step++) {
    const part = step / steps;
    paint({
      plane: to.plane,
      row: Math.round(from.row + part * (to.row - from.row)),
      column: Math.round(from.column + part * (to.column - from.column)),
    }, brushed());
  }
}

function paint(at, code) {
  const reach = Math.max(0, Number(size.value) - 1);
  for (let row = at.row - reach; row <= at.row + reach; row++) {
    for (let column = at.column - reach; column <= at.column + reach; column++) {
      if (row < 0 || column < 0 || row >= map.rows || column >= map.cols) continue;
      const place = (at.plane * map.rows + row) * map.cols + column;
      if (map.is_band && row !== at.row) continue;
      map.codes[place] = code;
      stroke.set(place, code);
    }
  }
}

planes.addEventListener("pointerdown", (event) => {
  const at = found(event);
  if (!at) return;
  if (mode() === "inspect") {
    const code = map.codes[at.place];
    if (code !== HOLE) brush.value = code;
    trigger("select", { place: at.place, code });
    return;
  }
  event.preventDefault();
  if (!map.is_editable) return;
  stroke = new Map();
  last = at;
  paint(at, brushed());
  draw();
});

function brushed() {
  const code = Math.round(Number(brush.value));
  return mode() === "erase" ? HOLE : Math.max(0, Math.min(map.num_codes - 1, code));
}

planes.addEventListener("pointermove", (event) => {
  const at = found(event);
  if (!at) return;
  if (stroke) {
    if (at.plane === last.plane) line(last, at);
    last = at;
    draw();
  } else {
    hover(event, at);
  }
});

planes.addEventListener("pointerleave", () => {
  tip.hidden = true;
  if (map) draw();
});

function finish() {
  if (!stroke) return;
  trigger("input", { edits: [...stroke] });
  stroke = null;
}

window.addEventListener("pointerup", finish);
window.addEventListener("pointercancel", finish);

modes.forEach((one) => one.addEventListener("click", () => choose(one.value)));
watch("value", show);
show();
