// Pictures that are drawn or completed, and questions.

import { make, makeDrawing } from "./board.js";
import { tellMissing } from "./meaning.js";
import { attempt, stream } from "./server.js";

const panel = (id) => {
  const section = document.getElementById(id);
  return {
    form: section.querySelector("form"),
    missing: section.querySelector(".missing"),
    out: section.lastElementChild,
    miss(text, flag) {
      section.querySelector("form").hidden = true;
      tellMissing(section.querySelector(".missing"), text, flag);
    },
  };
};

// `state()` gives the ids and the picture of now, `onIds(ids)` takes ids to work on.
export function makePanels(about, { state, onIds }) {
  makeDraw(about, onIds);
  makeComplete(about, state, onIds);
  makeAsk(about, state);
}

function makeDraw(about, onIds) {
  const { form, out, miss } = panel("draw");
  const { class: select, text, seed } = form.elements;
  if (!about.hasGenerator) return miss("Needs an image generator: ", "--generator=…");
  if (!about.classes.length && !about.drawsTexts) {
    return miss("This generator draws captions' features, of another text encoder than is here: ", "--generator=…");
  }
  select.append(...about.classes.map((name, number) => make("option", { value: number }, name)));
  select.parentElement.hidden = !about.classes.length;
  text.parentElement.hidden = about.classes.length > 0;
  text.required = !about.classes.length;
  submitting(form, async () => {
    const condition = about.classes.length ? Number(select.value) : text.value;
    await fill(out, about, [], "api/draw", { condition, seed: Number(seed.value) }, onIds);
    seed.value = Number(seed.value) + 1;
  });
}

function makeComplete(about, state, onIds) {
  const { form, out, miss } = panel("complete");
  const { seed } = form.elements;
  if (!about.hasGenerator) return miss("Needs an image generator of these ids: ", "--generator=…");
  if (!about.sharesIds) return miss("This generator draws another tokenizer's ids. Name one of these weights: ", "--generator=…");
  submitting(form, async () => {
    const { ids } = state();
    if (!ids) throw new Error("Expected a picture to complete: choose one first.");
    const [height, width] = about.grid;
    const kept = height > 1 ? Math.max(1, Math.floor(height / 2)) * width : 0;
    await fill(out, about, ids.slice(0, kept), "api/complete", { ids, seed: Number(seed.value) }, onIds);
    seed.value = Number(seed.value) + 1;
  });
}

function makeAsk(about, state) {
  const { form, out, miss } = panel("ask");
  if (!about.answers) return miss("Needs a multimodal model: ", "--model=…");
  if (!about.asksByIds) form.querySelector(".lead").textContent = "About the picture above; this model doesn't read its ids.";
  submitting(form, async () => {
    const { ids, picture } = state();
    if (!ids) throw new Error("Expected a picture to ask about: choose one first.");
    out.textContent = "…";
    out.hidden = false;
    let answer = "";
    const question = form.elements.question.value;
    for await (const { piece } of stream("api/ask", { question, ids, picture: about.asksByIds ? null : picture })) {
      answer += piece;
      out.textContent = answer;
    }
    out.textContent = answer || "(no answer)";
  });
}

async function fill(out, about, kept, path, body, onIds) {
  let drawing;
  for await (const item of stream(path, body)) {
    drawing ??= makeDrawing(out, about.generatorGrid, kept);
    drawing.add(item);
  }
  if (!about.sharesIds) return;
  const button = make("button", { type: "button" }, "Change its ids");
  button.addEventListener("click", () => onIds(drawing.ids));
  out.append(button);
}

// One at a time: the button rests while the work goes on.
function submitting(form, work) {
  const button = form.querySelector("[type=submit]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    await attempt(work);
    button.disabled = false;
  });
}
