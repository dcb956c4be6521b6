// The map: Leaflet where it is there, else a plain drawing. Both have the same functions:
//   images(places)      small marks; a place is {lat, lon, count, name}
//   candidates(places)  numbered marks; a place is {lat, lon, rank, name, open}
//   answer(place)       the mark of the answer, {lat, lon, label}, or null
//   prior(place)        a circle, {lat, lon, radius}, or null
//   fit(places), reveal(places)  move so that all are seen; reveal only if they are not
//   box() -> [west, south, east, north];  centre() -> {lat, lon}
// `pick({lat, lon})` is called for a click, `moved()` when another part is seen.

export async function createGround(element, settings, handlers) {
  element.tabIndex = 0;
  element.setAttribute("role", "application");
  element.setAttribute("aria-label", "Map of the images. Arrow keys move it, plus and minus zoom. “Centre of the map” chooses a place.");
  if (!settings.leaflet) return (await import("./plain_map.js")).plainMap(element, handlers);
  await Promise.all([loadStyle("page/vendor/leaflet.css"), loadScript("page/vendor/leaflet.js")]);
  return (await import("./leaflet_map.js")).leafletMap(element, settings.tiles, handlers);
}

/** A box within the ranges of longitude and latitude; west is more than east across 180 degrees. */
export function boxOf(west, south, east, north) {
  const wrapped = (degrees) => ((((degrees + 180) % 360) + 360) % 360) - 180;
  const clamped = (degrees) => Math.min(90, Math.max(-90, degrees));
  const [left, right] = east - west >= 360 ? [-180, 180] : [wrapped(west), wrapped(east)];
  return [left, clamped(south), right, clamped(north)];
}

function loadScript(address) {
  return loaded(Object.assign(document.createElement("script"), { src: address }));
}

function loadStyle(address) {
  return loaded(Object.assign(document.createElement("link"), { rel: "stylesheet", href: address }));
}

function loaded(element) {
  return new Promise((resolve, reject) => {
    element.addEventListener("load", resolve);
    element.addEventListener("error", () => reject(new Error("A part of the page cannot be loaded; reload it.")));
    document.head.prepend(element); // before the page's own style, which has the last word
  });
}
