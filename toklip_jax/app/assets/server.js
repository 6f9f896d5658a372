// Talks with the server, and says on the page what went wrong.

const error = document.getElementById("error");

export function say(line) {
  error.textContent = line;
  error.hidden = !line;
}

// A line stays until the next thing that is done.
for (const kind of ["click", "submit", "drop"]) addEventListener(kind, () => say(""), true);

const main = document.querySelector("main");
let running = 0;

// Runs work; an error becomes a line on the page.
export async function attempt(work) {
  main.ariaBusy = ++running > 0;
  try {
    await work();
  } catch (problem) {
    say(problem.message);
  } finally {
    main.ariaBusy = --running > 0;
  }
}

// Runs work, and once more if it was asked for meanwhile: only the newest state is ever computed.
export function latest(work) {
  let isRunning = false, isWanted = false;
  return async () => {
    isWanted = true;
    if (isRunning) return;
    isRunning = true;
    try {
      while (isWanted) {
        isWanted = false;
        await attempt(work);
      }
    } finally {
      isRunning = false;
    }
  };
}

export async function post(path, body) {
  return (await sent(path, body)).json();
}

// Yields the objects of an answer that comes line by line.
export async function* stream(path, body) {
  const reader = (await sent(path, body)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) {
      const item = JSON.parse(line);
      if (item.error) throw new Error(item.error);
      yield item;
    }
  }
}

export function floats(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

async function sent(path, body) {
  const isForm = body instanceof FormData;
  const answer = await fetch(path, {
    method: "POST",
    headers: isForm ? {} : { "content-type": "application/json" },
    body: isForm ? body : JSON.stringify(body),
  }).catch(() => {
    throw new Error("The app doesn't answer: is it still running?");
  });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}
