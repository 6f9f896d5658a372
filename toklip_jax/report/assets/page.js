"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data) return;

  // Base64 of little-endian float16.
  const decode = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const values = new Float32Array(bytes.length / 2);
    for (let i = 0; i < values.length; i++) {
      const bits = view.getUint16(2 * i, true);
      const exponent = (bits >> 10) & 31, fraction = bits & 1023;
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      values[i] = bits & 0x8000 ? -size : size;
    }
    return values;
  };
  const text = decode(data.text_features), tokens = decode(data.token_features);
  const input = document.getElementById("phrase"), found = document.getElementById("found");
  const canvases = [...document.querySelectorAll("canvas[data-image]")];
  const places = new Map(data.phrases.map((phrase, i) => [phrase.toLowerCase(), i]));

  const list = document.getElementById("phrases");
  list.append(...data.phrases.map((phrase) => new Option(phrase, phrase)));

  // The phrase itself, else the first that begins with it, else the first that holds it.
  const find = (asked) => {
    const wish = asked.trim().toLowerCase();
    if (!wish) return undefined;
    if (places.has(wish)) return places.get(wish);
    for (const fits of [(p) => p.toLowerCase().startsWith(wish), (p) => p.toLowerCase().includes(wish)]) {
      const place = data.phrases.findIndex(fits);
      if (place >= 0) return place;
    }
    return undefined;
  };

  const draw = (canvas, phrase) => {
    const size = data.directions, start = canvas.dataset.image * data.tokens;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(canvas.width, canvas.height);
    let best = -Infinity;
    for (let token = 0; token < data.tokens; token++) {
      let cosine = 0;
      for (let i = 0; i < size; i++) cosine += text[phrase * size + i] * tokens[(start + token) * size + i];
      best = Math.max(best, cosine);
      const share = Math.min(1, Math.max(0, (cosine - data.low) / (data.high - data.low)));
      const color = 4 * Math.round(255 * share);
      for (let c = 0; c < 4; c++) pixels.data[4 * token + c] = data.colors[color + c];
    }
    context.putImageData(pixels, 0, 0);
    const name = data.phrases[phrase];
    canvas.setAttribute("aria-label", `Where “${name}” is in ${canvas.dataset.title}; at most ${best.toFixed(2)}`);
    canvas.closest("figure").querySelector(".best").textContent = best.toFixed(2);
  };

  const show = (asked) => {
    const phrase = find(asked);
    if (phrase === undefined) {
      found.textContent = asked.trim() ? "The page doesn't know such a phrase." : "";
      return;
    }
    canvases.forEach((canvas) => draw(canvas, phrase));
    found.textContent = `“${data.phrases[phrase]}”; beside each name, its most similar patch`;
    document.documentElement.dataset.phrase = data.phrases[phrase];
  };

  const fromAddress = () => {
    const asked = new URLSearchParams(location.hash.slice(1)).get("phrase");
    if (asked !== null) input.value = asked;
    show(input.value);
  };
  input.addEventListener("input", () => show(input.value));
  input.form.addEventListener("submit", (event) => {
    event.preventDefault();
    history.replaceState(null, "", "#" + new URLSearchParams({ phrase: input.value }));
  });
  addEventListener("hashchange", fromAddress);
  document.documentElement.classList.add("scripted");
  fromAddress();
})();
