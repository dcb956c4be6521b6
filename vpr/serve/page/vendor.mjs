// Copies what the page loads from node_modules/ to vendor/.

import { copyFileSync, mkdirSync } from "node:fs";

const FILES = {
  "leaflet.js": "leaflet/dist/leaflet.js",
  "leaflet.css": "leaflet/dist/leaflet.css",
  "leaflet.LICENSE.txt": "leaflet/LICENSE",
};

const here = new URL("./", import.meta.url);
mkdirSync(new URL("vendor/", here), { recursive: true });
for (const [name, source] of Object.entries(FILES)) {
  copyFileSync(new URL(`node_modules/${source}`, here), new URL(`vendor/${name}`, here));
}
