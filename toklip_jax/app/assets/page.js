// The page: one picture's ids, which are changed, and all that follows from them.

import { make, makeBoard } from "./board.js";
import { makePanels } from "./drawing.js";
import { makeMeaning } from "./meaning.js";
import { readFolder, takePictures } from "./pictures.js";
import { attempt, latest, post } from "./server.js";

const by = (id) => document.getElementById(id);

const state = {
  pictures: [], // that were given: { ids, image, feature, name }
  given: null, // the one that is looked at, or null for ids that come from elsewhere
  first: null, // ids before any change: a list for each place
  ids: null,
  history: [],
  place: 0, // the selected cell
  which: 0, // the selected id of it, where a place has several
  restored: "", // the picture of the ids
};

async function start() {
  const about = await (await fetch("api/about")).json();
  const [height, width] = about.grid;
  const sizes = about.codebooks.map((size) => size.toLocaleString("en")).join(" and ");
  by("about").textContent = `${about.model} · ${height}\u00a0×\u00a0${width} ids of ${sizes}`;
  document.documentElement.style.setProperty("--aspect", `${about.size[1]} / ${about.size[0]}`);

  const board = makeBoard(by("board"), by("grid"), about.grid, {
    onSelect: select,
    onEnter: () => by("id").focus(),
  });
  const meaning = makeMeaning(about, { onChange: () => look(), onCount: showIds, onPicture: open });
  by("numbers").checked = !board.isDense;
  by("numbers").addEventListener("change", () => board.setNumbers(by("numbers").checked));
  board.setNumbers(!board.isDense);
  makeWhich(about);

  let since = 0; // when the change was made that is computed now
  const look = latest(async () => {
    const { ids } = state, phrases = [...meaning.phrases];
    const found = await post("api/look", { ids, phrases });
    state.restored = found.image;
    for (const id of ["picture", "restored"]) by(id).src = found.image;
    if (about.hasMeaning) meaning.show(found);
    await showDifference();
    if (since) by("cost").textContent = `changed in ${Math.round(performance.now() - since)} ms`;
    since = 0;
  });
  const inspect = latest(async () => {
    const { place, which, ids } = state;
    const found = await post("api/code", { place: ids[place], which });
    by("tile").src = found.tile;
    by("tile").alt = `What the code of ${ids[place].join(" ")} looks like`;
    by("near").replaceChildren(...found.near.map((one) => {
      const label = `Change to ${one.id}, at a distance of ${one.distance.toFixed(2)}`;
      const button = make("button", { type: "button", "aria-label": label }, make("img", { src: one.tile, alt: "" }), make("span", {}, String(one.id)), make("small", {}, one.distance.toFixed(2)));
      button.addEventListener("click", () => change(one.id));
      return make("li", {}, button);
    }));
  });

  function showIds() {
    if (!state.ids) return;
    board.show(state.ids, state.first, meaning.seenIds());
    by("undo").disabled = !state.history.length;
    by("reset").disabled = state.ids.every((place, i) => `${place}` === `${state.first[i]}`);
    const { place, which } = state;
    by("cell-title").textContent = `Id ${state.ids[place].join(" ")}`;
    by("where").textContent = `row ${Math.floor(place / width) + 1}, column ${(place % width) + 1}`;
    by("id").max = about.codebooks[which] - 1;
    by("id").value = state.ids[place][which];
    [...by("which").children].forEach((button, i) => button.setAttribute("aria-pressed", i === which));
  }

  function select(place) {
    state.place = place;
    board.select(place);
    showIds();
    inspect();
  }

  function setIds(ids, isNew) {
    if (isNew) state.history.push(state.ids);
    since = performance.now();
    state.ids = ids;
    showIds();
    look();
    inspect();
  }

  function change(id) {
    const { place, which } = state;
    const ids = state.ids.map((one) => [...one]);
    if (ids[place][which] === id) return;
    ids[place][which] = id;
    setIds(ids, true);
  }

  function open(picture) {
    begin(picture.ids, picture);
  }

  function begin(ids, picture = null) {
    Object.assign(state, { given: picture, first: ids, ids, history: [] });
    by("cost").textContent = "";
    [...by("shelf").children].forEach((item, i) => {
      item.firstChild.setAttribute("aria-current", state.pictures[i] === picture);
    });
    by("stage").hidden = by("meaning").hidden = false;
    by("original").src = picture?.image ?? "data:,";
    by("original").parentElement.hidden = by("difference").parentElement.hidden = !picture;
    showIds();
    look();
    select(state.place);
  }

  function makeWhich({ codebooks }) {
    if (codebooks.length < 2) return;
    by("which").append(...codebooks.map((_, i) => {
      const button = make("button", { type: "button" }, `${i + 1}`);
      button.addEventListener("click", () => {
        state.which = i;
        select(state.place);
      });
      return button;
    }));
  }

  function onPictures(found) {
    state.pictures.push(...found);
    by("shelf").append(...found.map((picture) => {
      const button = make("button", { type: "button", title: picture.name }, make("img", { src: picture.image, alt: picture.name }));
      button.addEventListener("click", () => open(picture));
      return make("li", {}, button);
    }));
    meaning.setPictures(state.pictures);
    if (!state.ids && found.length) open(found[0]);
  }

  by("change").addEventListener("submit", (event) => {
    event.preventDefault();
    change(Number(by("id").value));
    board.focus();
  });
  by("id").addEventListener("keydown", (event) => event.key === "Escape" && board.focus());
  by("random-id").addEventListener("click", () => change(randomId(about.codebooks[state.which])));
  by("undo").addEventListener("click", () => setIds(state.history.pop(), false));
  by("reset").addEventListener("click", () => setIds(state.first, true));
  by("random-ids").addEventListener("click", () => {
    begin(Array.from({ length: height * width }, () => about.codebooks.map(randomId)));
  });
  const edit = (ids) => {
    begin(ids);
    by("stage").scrollIntoView();
  };
  makePanels(about, { state: () => ({ ids: state.ids, picture: state.restored }), onIds: edit });
  takePictures(about, { onPictures, room: () => about.maxFiles - state.pictures.length });
  await readFolder(about, onPictures);
}

const randomId = (size) => Math.floor(Math.random() * size);

// Paints how far the picture of the ids is from the one that was given.
async function showDifference() {
  if (!state.given) return;
  const [given, restored] = await Promise.all([state.given.image, state.restored].map(pixelsOf));
  const canvas = by("difference"), { width, height } = given;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  let sum = 0;
  for (let i = 0; i < image.data.length; i += 4) {
    let error = 0;
    for (let c = 0; c < 3; c++) error += Math.abs(given.data[i + c] - restored.data[i + c]) / 3;
    sum += error;
    image.data.set([230, 96, 20, Math.min(255, 2 * error)], i);
  }
  context.putImageData(image, 0, 0);
  const mean = sum / (width * height);
  by("difference-note").textContent = `difference: ${mean.toFixed(1)} of 255`;
}

async function pixelsOf(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

attempt(start);
