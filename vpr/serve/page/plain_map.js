// The map without a library: positions on a plain ground, as SVG in Mercator's projection.

import { boxOf } from "./ground.js";

const SVG = "http://www.w3.org/2000/svg";
const EQUATOR_M = 40075016.7;
const CLOSEST = 2 ** 30; // pixels around the equator
const DRAG = 4; // pixels: less is a click

const across = (lon) => (lon + 180) / 360;
const down = (lat) => 0.5 - Math.asinh(Math.tan((Math.min(85, Math.max(-85, lat)) * Math.PI) / 180)) / (2 * Math.PI);
const latitude = (y) => (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI;
const longitude = (x) => x * 360 - 180;

export function plainMap(element, { pick, moved }) {
  const svg = make("svg", { class: "plain" });
  const groups = { prior: make("g"), images: make("g"), candidates: make("g"), answer: make("g") };
  svg.append(...Object.values(groups));
  element.append(svg, buttons());
  const held = { prior: [], images: [], candidates: [], answer: [] };
  let view = { x: 0.5, y: 0.5, scale: 400 };

  const pixel = ({ lat, lon }) => {
    const [width, height] = [element.clientWidth, element.clientHeight];
    return [width / 2 + (across(lon) - view.x) * view.scale, height / 2 + (down(lat) - view.y) * view.scale];
  };
  const place = (px, py) => ({
    lat: latitude(Math.min(1, Math.max(0, view.y + (py - element.clientHeight / 2) / view.scale))),
    lon: longitude(Math.min(1, Math.max(0, view.x + (px - element.clientWidth / 2) / view.scale))),
  });

  function draw() {
    for (const [name, group] of Object.entries(groups)) {
      group.replaceChildren(...held[name].map((each) => MARKS[name](each, pixel(each), view.scale)));
    }
  }
  function move(next) {
    view = { x: Math.min(1, Math.max(0, next.x)), y: Math.min(1, Math.max(0, next.y)), scale: Math.min(CLOSEST, Math.max(200, next.scale)) };
    draw();
    moved();
  }
  function zoom(factor, px = element.clientWidth / 2, py = element.clientHeight / 2) {
    const scale = Math.min(CLOSEST, Math.max(200, view.scale * factor));
    const [dx, dy] = [px - element.clientWidth / 2, py - element.clientHeight / 2];
    move({ x: view.x + dx / view.scale - dx / scale, y: view.y + dy / view.scale - dy / scale, scale });
  }
  function set(name, places) {
    held[name] = places;
    draw();
  }
  function fit(places) {
    const [xs, ys] = [places.map((each) => across(each.lon)), places.map((each) => down(each.lat))];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const scale = 0.85 * Math.min(element.clientWidth / Math.max(right - left, 1e-6), element.clientHeight / Math.max(bottom - top, 1e-6));
    move({ x: (left + right) / 2, y: (top + bottom) / 2, scale });
  }
  function box() {
    const [first, last] = [place(0, element.clientHeight), place(element.clientWidth, 0)];
    return boxOf(first.lon, first.lat, last.lon, last.lat);
  }

  function buttons() {
    const group = document.createElement("div");
    group.className = "zoom";
    for (const [sign, name, factor] of [["+", "Zoom in", 2], ["−", "Zoom out", 0.5]]) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: sign, ariaLabel: name });
      button.addEventListener("click", () => zoom(factor));
      group.append(button);
    }
    return group;
  }

  let drag = null;
  svg.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, from: view, far: false };
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.far ||= Math.hypot(dx, dy) > DRAG;
    if (drag.far) move({ x: drag.from.x - dx / view.scale, y: drag.from.y - dy / view.scale, scale: view.scale });
  });
  svg.addEventListener("pointerup", (event) => {
    const clicked = drag && !drag.far;
    drag = null;
    if (!clicked) return;
    const under = document.elementsFromPoint(event.clientX, event.clientY).find((each) => each.closest?.(".candidate"));
    const { left, top } = element.getBoundingClientRect();
    if (under) under.closest(".candidate").dispatchEvent(new Event("open"));
    else pick(place(event.clientX - left, event.clientY - top));
  });
  svg.addEventListener("pointercancel", () => (drag = null));
  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { left, top } = element.getBoundingClientRect();
    zoom(2 ** (-event.deltaY / 300), event.clientX - left, event.clientY - top);
  }, { passive: false });
  element.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-80, 0], ArrowRight: [80, 0], ArrowUp: [0, -80], ArrowDown: [0, 80] };
    const factors = { "+": 2, "=": 2, "-": 0.5 };
    const by = steps[event.key];
    if (by) move({ x: view.x + by[0] / view.scale, y: view.y + by[1] / view.scale, scale: view.scale });
    else if (factors[event.key]) zoom(factors[event.key]);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(draw).observe(element);

  return {
    images: (places) => set("images", places),
    candidates: (places) => set("candidates", [...places].reverse()),
    answer: (one) => set("answer", one ? [one] : []),
    prior: (one) => set("prior", one ? [one] : []),
    fit,
    reveal(places) {
      const hidden = places.map(pixel).some(([x, y]) => x < 0 || y < 0 || x > element.clientWidth || y > element.clientHeight);
      if (hidden) fit(places);
    },
    box,
    centre: () => ({ lat: latitude(view.y), lon: longitude(view.x) }),
  };
}

const MARKS = {
  prior({ lat, radius }, [x, y], scale) {
    const r = (radius / (EQUATOR_M * Math.cos((lat * Math.PI) / 180))) * scale;
    return group("", make("circle", { class: "prior", cx: x, cy: y, r }), make("circle", { class: "prior-centre", cx: x, cy: y, r: 3 }));
  },
  images({ count, name }, [x, y]) {
    if (count > 1) return group("cluster", make("circle", { cx: x, cy: y, r: 9 + 4 * Math.log10(count) }), words(x, y, count));
    return group("image", make("circle", { cx: x, cy: y, r: 4 }), title(name));
  },
  candidates({ rank, name, open }, [x, y]) {
    const made = group("candidate", make("circle", { cx: x, cy: y, r: 12 }), words(x, y, rank + 1), title(`${rank + 1}. ${name}`));
    Object.entries({ tabindex: 0, role: "button", "aria-label": `Candidate ${rank + 1}` }).forEach((each) => made.setAttribute(...each));
    made.addEventListener("open", open);
    made.addEventListener("keydown", (event) => event.key === "Enter" && open());
    return made;
  },
  answer({ label }, [x, y]) {
    return group("answer", make("path", { d: `M${x - 28} ${y - 34}h56v26h-20l-8 8l-8 -8h-20z` }), words(x, y - 21, label));
  },
};

function make(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function group(kind, ...children) {
  const made = make("g", { class: kind });
  made.append(...children);
  return made;
}

function words(x, y, text) {
  const made = make("text", { x, y });
  made.textContent = text;
  return made;
}

function title(text) {
  const made = make("title");
  made.textContent = text;
  return made;
}
