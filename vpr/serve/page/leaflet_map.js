// The map by Leaflet.

import { boxOf } from "./ground.js";

const CLOSEST = 21; // zoom
const L = window.L;

export function leafletMap(element, tiles, { pick, moved }) {
  const map = L.map(element, { attributionControl: false, maxZoom: CLOSEST, zoomSnap: 0.5, worldCopyJump: true }).setView([0, 0], 1);
  if (tiles) L.tileLayer(tiles.url, { maxZoom: CLOSEST, maxNativeZoom: 19 }).addTo(map);
  L.control.scale({ imperial: false }).addTo(map);
  const [circle, dots, numbered, answers] = Array.from({ length: 4 }, () => L.layerGroup().addTo(map));
  map.on("click", (event) => pick(degreesOf(event.latlng)));
  map.on("moveend", moved);
  new ResizeObserver(() => map.invalidateSize()).observe(element);
  return {
    images: (places) => replace(dots, places.map(dot)),
    candidates: (places) => replace(numbered, places.map(number).reverse()),
    answer: (place) => replace(answers, place ? [pin(place)] : []),
    prior: (place) => replace(circle, place ? prior(place) : []),
    fit: (places) => map.fitBounds(bounds(places), { padding: [24, 24], maxZoom: 19 }),
    reveal(places) {
      if (places.length && !map.getBounds().contains(bounds(places))) map.fitBounds(bounds(places).pad(0.5), { maxZoom: 18 });
    },
    box() {
      const seen = map.getBounds();
      return boxOf(seen.getWest(), seen.getSouth(), seen.getEast(), seen.getNorth());
    },
    centre: () => degreesOf(map.getCenter()),
  };
}

function degreesOf(place) {
  const { lat, lng } = place.wrap();
  return { lat, lon: lng };
}

const bounds = (places) => L.latLngBounds(places.map((each) => [each.lat, each.lon]));

function replace(group, layers) {
  group.clearLayers();
  for (const layer of layers) group.addLayer(layer);
}

/** Text as an element: Leaflet takes strings as HTML, and names of images may hold any. */
function text(kind, words) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = words;
  return made;
}

function dot({ lat, lon, count, name }) {
  if (count > 1) {
    const size = 18 + 4 * Math.log10(count) * 2;
    const icon = L.divIcon({ className: "cluster", html: text("", short(count)), iconSize: [size, size] });
    return L.marker([lat, lon], { icon, interactive: false, keyboard: false });
  }
  const mark = L.circleMarker([lat, lon], { className: "image", radius: 4, bubblingMouseEvents: true });
  return name ? mark.bindTooltip(text("", name)) : mark;
}

const short = (count) => (count < 1000 ? String(count) : count < 1e6 ? `${Math.round(count / 1000)}k` : `${(count / 1e6).toFixed(1)}M`);

function number({ lat, lon, rank, name, open }) {
  const icon = L.divIcon({ className: "candidate", html: text("", rank + 1), iconSize: [24, 24] });
  const mark = L.marker([lat, lon], { icon, alt: `Candidate ${rank + 1}`, zIndexOffset: 100 - rank });
  return mark.bindTooltip(text("", `${rank + 1}. ${name}`)).on("click", open).on("keydown", (event) => {
    if (event.originalEvent.key === "Enter") open();
  });
}

function pin({ lat, lon, label }) {
  const icon = L.divIcon({ className: "answer", html: text("", label), iconSize: [56, 26], iconAnchor: [28, 34] });
  return L.marker([lat, lon], { icon, interactive: false, keyboard: false, zIndexOffset: 1000, alt: `Answer, probability ${label}` });
}

function prior({ lat, lon, radius }) {
  return [
    L.circle([lat, lon], { className: "prior", radius, interactive: false }),
    L.circleMarker([lat, lon], { className: "prior-centre", radius: 3, interactive: false }),
  ];
}
