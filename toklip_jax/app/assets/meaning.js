// What the ids mean: shares of phrases, where a phrase is, and the nearest pictures.

import { make } from "./board.js";
import { floats } from "./server.js";

const by = (id) => document.getElementById(id);
const FIRST = ["a face", "an animal", "food", "a flag"];
const NEAREST = 12;
const WARM = [230, 96, 20];

// `onChange()` is called when other phrases are wanted, `onCount()` when another number of ids is.
export function makeMeaning(about, { onChange, onCount, onPicture }) {
  const phrases = about.hasTexts ? [...FIRST] : [];
  const counts = about.counts;
  let chosen = 0, seen = null, pictures = [], first = counts.length - 1;

  by("meaning-missing").hidden = about.hasTexts;
  if (!about.hasMeaning) {
    tellMissing(by("meaning-missing"), "A VQ tokenizer's ids have no meaning by themselves. Start with TokLIP's weights: ", "--weights=…");
    by("meaning-columns").hidden = by("neighbours").hidden = true;
  } else if (!about.hasTexts) {
    tellMissing(by("meaning-missing"), "These weights hold no text tokenizer, which phrases need. Name it: ", "--tokenizer=…");
    by("add-phrase").hidden = true;
    document.querySelector(".map").hidden = true;
  }

  const slider = by("count");
  slider.max = counts.length;
  slider.value = counts.length;
  by("slider").hidden = counts.length < 2;
  slider.addEventListener("input", () => {
    first = slider.value - 1;
    draw();
    onCount();
  });

  by("add-phrase").addEventListener("submit", (event) => {
    event.preventDefault();
    const phrase = by("phrase").value.trim();
    if (!phrase || phrases.includes(phrase)) return;
    phrases.push(phrase.slice(0, about.maxLetters));
    chosen = phrases.length - 1;
    by("phrase").value = "";
    onChange();
  });

  function draw() {
    by("count-note").textContent = `${counts[first]} of ${counts.at(-1)}`;
    slider.setAttribute("aria-valuetext", `${counts[first]} of ${counts.at(-1)} ids`);
    by("phrase").disabled = phrases.length >= about.maxPhrases;
    if (!seen) return;
    drawBars();
    drawMap();
    drawNearest();
  }

  function drawBars() {
    if (by("bars").children.length !== phrases.length) {
      by("bars").replaceChildren(...phrases.map(() => makeBar()));
    }
    [...by("bars").children].forEach((row, i) => {
      const [name, bar, share, remove] = row.children;
      const value = seen.shares?.[first]?.[i];
      const text = value === undefined ? "" : `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
      name.textContent = phrases[i];
      name.setAttribute("aria-pressed", i === chosen);
      bar.firstChild.style.width = `${100 * (value ?? 0)}%`;
      share.textContent = text;
      share.title = value === undefined ? "" : `cosine ${seen.cosines[first][i].toFixed(3)}`;
      remove.setAttribute("aria-label", `Remove “${phrases[i]}”`);
    });
  }

  function makeBar() {
    const name = make("button", { type: "button" });
    const remove = make("button", { type: "button", class: "remove" }, "×");
    const bar = make("div", { class: "bar", "aria-hidden": "true" }, make("i"));
    const row = make("li", {}, name, bar, make("output"), remove);
    const place = () => [...by("bars").children].indexOf(row);
    name.addEventListener("click", () => {
      chosen = place();
      draw();
    });
    remove.addEventListener("click", () => {
      const gone = place();
      phrases.splice(gone, 1);
      chosen = Math.max(0, Math.min(chosen - (gone < chosen), phrases.length - 1));
      onChange();
    });
    return row;
  }

  function drawMap() {
    const values = seen.maps?.[chosen];
    document.querySelector(".map").hidden = !values;
    if (!values) return;
    const [height, width] = about.grid, canvas = by("map"), phrase = phrases[chosen];
    const low = Math.min(...values), high = Math.max(...values);
    const context = canvas.getContext("2d");
    canvas.width = width;
    canvas.height = height;
    const image = context.createImageData(width, height);
    values.forEach((value, place) => {
      const strength = place < counts[first] ? (value - low) / Math.max(high - low, 1e-9) : 0;
      image.data.set([...WARM, Math.round(225 * strength)], 4 * place);
    });
    context.putImageData(image, 0, 0);
    by("map-picture").src = seen.image;
    canvas.setAttribute("aria-label", `Where “${phrase}” is`);
    by("map-note").textContent =
      `Where “${phrase}” is: the cosine of each place, from ${low.toFixed(2)} (clear) to ` +
      `${high.toFixed(2)} (strong).` +
      (counts.length > 1 ? " A place knows only the ids before it, row by row." : "");
  }

  function drawNearest() {
    const features = floats(seen.features), d = features.length / counts.length;
    const query = features.subarray(first * d, (first + 1) * d);
    const ranked = pictures
      .map((picture) => [picture.feature.reduce((sum, x, i) => sum + x * query[i], 0), picture])
      .sort((a, b) => b[0] - a[0])
      .slice(0, NEAREST);
    by("nearest").replaceChildren(...ranked.map(([cosine, picture]) => {
      const button = make("button", { type: "button", title: picture.name }, make("img", { src: picture.image, alt: picture.name }));
      button.addEventListener("click", () => onPicture(picture));
      return make("li", {}, button, make("small", {}, cosine.toFixed(3)));
    }));
    by("nearest-note").textContent = pictures.length > 1 ? "" : "Drop a folder of pictures to see which are nearest.";
  }

  draw();
  return {
    phrases,
    seenIds: () => counts[first] ?? Infinity,
    show(found) {
      seen = found;
      chosen = Math.max(0, Math.min(chosen, phrases.length - 1));
      draw();
    },
    setPictures(all) {
      pictures = all.filter((picture) => picture.feature);
      if (seen?.features) drawNearest();
    },
  };
}

export function tellMissing(place, text, flag) {
  place.replaceChildren(text, make("code", {}, flag));
  place.hidden = false;
}
