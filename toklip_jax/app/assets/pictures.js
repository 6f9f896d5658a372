// Pictures that are dropped or chosen: sent in small batches, and kept on this page alone.

import { attempt, floats, post, say } from "./server.js";

const by = (id) => document.getElementById(id);

// `onPictures(pictures)` gets them batch by batch; `room()` says how many there may still be.
export function takePictures(about, { onPictures, room }) {
  const drop = by("drop");
  const take = (files) => attempt(() => upload(files.filter(isPicture), about, onPictures, room()));
  for (const id of ["files", "folder"]) {
    by(id).addEventListener("change", () => {
      take([...by(id).files]);
      by(id).value = "";
    });
  }
  by("choose-files").addEventListener("click", () => by("files").click());
  by("choose-folder").addEventListener("click", () => by("folder").click());
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry());
    take((await Promise.all(entries.filter(Boolean).map(filesOf))).flat());
  });
}

// The pictures of the folder that the app was started with.
export async function readFolder(about, onPictures) {
  for (let start = 0; start < about.folder; start += about.batch) {
    tell(start, about.folder);
    const { pictures } = await post("api/folder", { start });
    onPictures(usable(pictures, pictures.map((picture) => picture.name)));
  }
  tell(0, 0);
}

async function upload(files, about, onPictures, room) {
  if (!files.length) throw new Error("Expected pictures, found none among what was dropped.");
  const large = files.filter((file) => file.size > about.maxBytes);
  const fitting = files.filter((file) => file.size <= about.maxBytes);
  const taken = fitting.slice(0, room);
  let done = 0;
  for (const batch of batches(taken, about)) {
    tell(done, taken.length);
    const form = new FormData();
    batch.forEach((file) => form.append("picture", file, "picture"));
    const { pictures } = await post("api/pictures", form);
    onPictures(usable(pictures, batch.map((file) => file.name)));
    done += batch.length;
  }
  tell(0, 0);
  const over = fitting.length - taken.length;
  if (large.length) say(`${large[0].name}: larger than ${megabytes(about)} MB (--max-upload-mb), left out.`);
  else if (over) say(`${over} pictures left out: the page holds ${about.maxFiles} (--max-files).`);
}

// As many as the server encodes together, and takes at once.
function* batches(files, about) {
  let batch = [], size = 0;
  for (const file of files) {
    // Beside its bytes, each file has a header.
    if (batch.length === about.batch || size + file.size > about.maxBytes - 65536) {
      if (batch.length) yield batch;
      batch = [];
      size = 0;
    }
    batch.push(file);
    size += file.size;
  }
  if (batch.length) yield batch;
}

function usable(pictures, names) {
  const bad = pictures.findIndex((picture) => picture.error);
  if (bad >= 0) say(`${names[bad]}: ${pictures[bad].error}`);
  return pictures
    .map((picture, i) => ({ ...picture, name: names[i], feature: picture.feature && floats(picture.feature) }))
    .filter((picture) => !picture.error);
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(filesOf))).flat();
}

const isPicture = (file) => file.type.startsWith("image/") && !file.name.startsWith(".");
const megabytes = (about) => about.maxBytes / 2 ** 20;
const tell = (done, all) => { by("progress").textContent = all ? `${done} of ${all} pictures` : ""; };
