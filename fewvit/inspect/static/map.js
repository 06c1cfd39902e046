"use strict";
// The points on a canvas: move, zoom, look, and choose classes, by pointer or keys.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const canvas = at("map"), stage = at("stage"), tip = at("tip"), sprite = at("sprite"), pen = canvas.getContext("2d");
  const count = data.labels.length, xs = new Float32Array(count), ys = new Float32Array(count);
  for (let i = 0; i < count; i++) { xs[i] = data.points[2 * i]; ys[i] = data.points[2 * i + 1]; }
  const colour = (i) => (data.labels[i] < 0 ? data.unlabelled : data.colours[data.labels[i]]);
  const called = (i) => (data.labels[i] < 0 ? "no label" : data.classes[data.labels[i]]);
  const shown = new Map();
  for (const label of data.labels) shown.set(label, true);
  const visible = (i) => shown.get(data.labels[i]);
  let width = 1, height = 1, scale = 1, left = 0, top = 0, fit = 1;
  let hovered = -1, pinned = -1, lit = null, asked = false;

  const placed = (i) => [left + xs[i] * scale, top + ys[i] * scale];
  const home = () => {
    const room = 0.92, wide = data.size[0], tall = data.size[1];
    fit = scale = room * Math.min(width / wide, height / tall);
    left = (width - wide * scale) / 2;
    top = (height - tall * scale) / 2;
  };
  const radius = () => Math.max(1.6, Math.min(9, (6.4 - Math.log10(Math.max(count, 10)) * 1.1) * Math.sqrt(scale / fit)));
  const draw = () => {
    asked = false;
    const dots = window.devicePixelRatio || 1, r = radius(), style = getComputedStyle(document.documentElement);
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.clearRect(0, 0, width, height);
    const inside = [];
    for (let i = 0; i < count; i++) {
      const [x, y] = placed(i);
      if (visible(i) && x > -99 && y > -99 && x < width + 99 && y < height + 99) inside.push(i);
    }
    const small = at("pictures").getAttribute("aria-pressed") === "true"
      ? Math.min(data.side, 30 * Math.sqrt(scale / fit)) : 0, taken = new Set();
    const later = [];
    for (const i of inside) {
      const [x, y] = placed(i), dim = lit !== null && data.labels[i] !== lit;
      if (small && data.cells[i] >= 0 && !dim) {
        const place = Math.round(x / small) + ":" + Math.round(y / small);
        if (!taken.has(place)) { taken.add(place); later.push(i); continue; }
      }
      pen.globalAlpha = dim ? 0.1 : 0.82;
      pen.fillStyle = colour(i);
      pen.beginPath();
      pen.arc(x, y, small ? Math.min(r, 3) : r, 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
    for (const i of later) {
      const [x, y] = placed(i);
      pen.fillStyle = colour(i);
      pen.fillRect(x - small / 2 - 2, y - small / 2 - 2, small + 4, small + 4);
      picture(pen, i, x - small / 2, y - small / 2, small);
    }
    for (const [i, ring] of [[hovered, "--ink"], [pinned, "--accent"]]) {
      if (i < 0 || !visible(i)) continue;
      const [x, y] = placed(i);
      pen.lineWidth = 2.5;
      pen.strokeStyle = style.getPropertyValue(ring);
      pen.beginPath();
      pen.arc(x, y, Math.max(r, small / 2) + 4, 0, 7);
      pen.stroke();
    }
  };
  const picture = (on, i, x, y, side) => {
    const cell = data.cells[i], s = data.side;
    on.drawImage(sprite, (cell % data.across) * s, Math.floor(cell / data.across) * s, s, s, x, y, side, side);
  };
  const redraw = () => { if (!asked) { asked = true; requestAnimationFrame(draw); } };
  const words = (parent, kind, text) => {
    const one = document.createElement("p");
    one.className = kind;
    one.textContent = text;
    parent.append(one);
    return one;
  };
  const told = (parent, i, side) => {
    parent.replaceChildren();
    if (data.cells[i] >= 0) {
      const small = document.createElement("canvas");
      small.width = small.height = side;
      small.setAttribute("role", "img");
      small.setAttribute("aria-label", "Picture of " + called(i));
      small.getContext("2d").imageSmoothingQuality = "high";
      picture(small.getContext("2d"), i, 0, 0, side);
      parent.append(small);
    }
    const name = words(parent, "label", ""), dot = document.createElement("i");
    dot.className = "dot";
    dot.style.background = colour(i);
    name.append(dot, " " + called(i));
    words(parent, "id", data.ids ? data.ids[i] : "number " + i);
    if (data.cells[i] < 0) words(parent, "id", "no picture");
    for (const one of parent.querySelectorAll("p")) one.style.margin = "2px 0 0";
  };
  const pin = (i) => {
    pinned = i;
    const card = at("shown");
    if (i < 0) card.replaceChildren(); else told(card, i, 256);
    at("hint").hidden = i >= 0;
    redraw();
  };
  const hover = (i) => {
    hovered = i;
    tip.hidden = i < 0;
    if (i >= 0) {
      told(tip, i, 128);
      const [x, y] = placed(i), room = tip.getBoundingClientRect();
      tip.style.left = Math.max(4, x + 18 + room.width > width ? x - 18 - room.width : x + 18) + "px";
      tip.style.top = Math.max(4, Math.min(height - room.height - 4, y - room.height / 2)) + "px";
    }
    redraw();
  };
  const nearest = (x, y, most) => {
    let best = -1, least = most * most;
    for (let i = 0; i < count; i++) {
      if (!visible(i)) continue;
      const [a, b] = placed(i), d = (a - x) ** 2 + (b - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  };
  const towards = (from, dx, dy) => { // the point that way: near, and not far off the line
    const [x, y] = placed(from);
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (i === from || !visible(i)) continue;
      const [a, b] = placed(i), along = (a - x) * dx + (b - y) * dy, off = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
      if (along <= 0 || off > along) continue;
      if (along + 2 * off < least) { least = along + 2 * off; best = i; }
    }
    return best;
  };
  const zoom = (factor, x, y) => {
    const wanted = Math.max(fit * 0.5, Math.min(fit * 60, scale * factor)), by = wanted / scale;
    left = x - (x - left) * by;
    top = y - (y - top) * by;
    scale = wanted;
    hover(-1);
  };

  const resized = () => {
    const box = stage.getBoundingClientRect(), dots = window.devicePixelRatio || 1, first = width === 1;
    const middle = [(width / 2 - left) / scale, (height / 2 - top) / scale];
    width = box.width; height = box.height;
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    if (first || scale === fit) home();
    else { left = width / 2 - middle[0] * scale; top = height / 2 - middle[1] * scale; }
    redraw();
  };
  new ResizeObserver(resized).observe(stage);
  resized();

  let dragged = null, moved = false;
  const local = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    dragged = local(event); moved = false;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = local(event);
    if (dragged === null) { hover(nearest(x, y, 14)); return; }
    if (Math.hypot(x - dragged[0], y - dragged[1]) > 4 || moved) {
      moved = true;
      canvas.classList.add("dragged");
      left += x - dragged[0]; top += y - dragged[1];
      dragged = [x, y];
      hover(-1);
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const [x, y] = local(event);
    if (!moved) pin(nearest(x, y, 18));
    dragged = null;
    canvas.classList.remove("dragged");
  });
  canvas.addEventListener("pointercancel", () => { dragged = null; canvas.classList.remove("dragged"); });
  canvas.addEventListener("pointerleave", () => hover(-1));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0015), ...local(event));
  }, { passive: false });
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in arrows) {
      const from = pinned >= 0 && visible(pinned) ? pinned : -1;
      const to = from < 0 ? nearest(width / 2, height / 2, Infinity) : towards(from, ...arrows[event.key]);
      if (to >= 0) {
        pin(to);
        const [x, y] = placed(to);
        if (x < 20 || y < 20 || x > width - 20 || y > height - 20) { left += width / 2 - x; top += height / 2 - y; }
        at("said").textContent = called(to) + (data.ids ? ", " + data.ids[to] : "");
      }
    } else if (event.key === "+" || event.key === "=") zoom(1.4, width / 2, height / 2);
    else if (event.key === "-") zoom(1 / 1.4, width / 2, height / 2);
    else if (event.key === "0") { home(); redraw(); }
    else if (event.key === "Escape") { pin(-1); hover(-1); }
    else return;
    event.preventDefault();
  });
  at("in").addEventListener("click", () => zoom(1.4, width / 2, height / 2));
  at("out").addEventListener("click", () => zoom(1 / 1.4, width / 2, height / 2));
  at("home").addEventListener("click", () => { home(); redraw(); });
  at("pictures").hidden = !data.side;
  at("pictures").addEventListener("click", (event) => {
    const button = event.currentTarget;
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    redraw();
  });

  // the legend
  const list = at("classes"), buttons = new Map();
  const entry = (label, name) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const dot = document.createElement("i"), text = document.createElement("span"), number = document.createElement("span");
    dot.className = "dot";
    dot.style.background = label < 0 ? data.unlabelled : data.colours[label];
    text.className = "name"; text.textContent = name;
    number.className = "count"; number.textContent = data.labels.reduce((sum, one) => sum + (one === label), 0);
    button.type = "button";
    button.append(dot, text, number);
    button.addEventListener("click", () => choose(label, !shown.get(label)));
    button.addEventListener("dblclick", () => { for (const one of shown.keys()) choose(one, one === label); });
    for (const [event, value] of [["pointerenter", label], ["pointerleave", null], ["focus", label], ["blur", null]])
      button.addEventListener(event, () => { lit = value !== null && shown.get(label) ? value : null; redraw(); });
    item.append(button);
    list.append(item);
    buttons.set(label, button);
    button.setAttribute("aria-pressed", "true");
  };
  const choose = (label, is) => {
    shown.set(label, is);
    buttons.get(label).setAttribute("aria-pressed", String(is));
    if (!is && lit === label) lit = null;
    hover(-1);
  };
  data.classes.forEach((name, label) => { if (shown.has(label)) entry(label, name); });
  if (shown.has(-1)) entry(-1, "no label");
  at("every").addEventListener("click", () => { for (const label of shown.keys()) choose(label, true); });
  at("none").addEventListener("click", () => { for (const label of shown.keys()) choose(label, false); });
  const find = at("find");
  find.hidden = buttons.size < 13;
  find.addEventListener("input", () => {
    const sought = find.value.toLowerCase();
    for (const button of buttons.values())
      button.parentElement.hidden = !button.querySelector(".name").textContent.toLowerCase().includes(sought);
  });
  if (sprite.complete) redraw(); else sprite.addEventListener("load", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
})();
