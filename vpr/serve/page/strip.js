// The candidates of an answer as a strip of buttons.

/** Fill a list with candidates; `open(rank)` is called for the one that is chosen. */
export function showCandidates(list, candidates, { thumbnails, open }) {
  list.replaceChildren(...candidates.map((each, rank) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    if (thumbnails) button.append(thumbnail(each));
    button.append(line("name", `${rank + 1}. ${each.name}`), line("evidence", evidence(each)));
    button.addEventListener("click", () => open(rank));
    item.append(button);
    return item;
  }));
}

export function evidence(candidate) {
  if (candidate.inliers === null) return `similarity ${candidate.similarity.toFixed(2)}`;
  return `${candidate.inliers} inliers of ${candidate.matches} matches`;
}

function thumbnail(candidate) {
  const image = document.createElement("img");
  image.alt = "";
  image.loading = "lazy";
  image.src = `v1/images/${candidate.id}/thumbnail?longest=320`;
  image.addEventListener("error", () => image.replaceWith(line("lacking", "no image file")));
  return image;
}

function line(kind, text) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  return made;
}
