// A picture under a grid of cells: the one whose ids are changed, and those that are drawn.

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const LARGEST = 12; // columns whose ids can be read without scrolling

// The grid of ids. `onSelect(place)` follows clicks and arrow keys, `onEnter()` the Enter key.
export function makeBoard(board, grid, [height, width], { onSelect, onEnter }) {
  const cells = [];
  board.style.setProperty("--columns", width);
  for (let row = 0; row < height; row++) {
    const line = make("div", { role: "row" });
    for (let column = 0; column < width; column++) {
      const cell = make("button", { type: "button", role: "gridcell", tabindex: -1 }, make("span"));
      const place = cells.push(cell) - 1;
      cell.addEventListener("click", () => onSelect(place));
      line.append(cell);
    }
    grid.append(line);
  }
  let selected = 0;

  grid.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      return onEnter();
    }
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const row = Math.min(Math.max(Math.floor(selected / width) + step[0], 0), height - 1);
    const column = Math.min(Math.max((selected % width) + step[1], 0), width - 1);
    onSelect(row * width + column);
    cells[selected].focus();
  });

  return {
    isDense: width > LARGEST,
    // Shows ids, marks those that differ from the first ones, and veils what isn't seen.
    show(ids, first, seen) {
      cells.forEach((cell, place) => {
        const text = ids[place].join(" ");
        const isChanged = text !== first[place].join(" ");
        cell.firstChild.textContent = text;
        cell.classList.toggle("changed", isChanged);
        cell.classList.toggle("unseen", place >= seen);
        const where = `row ${Math.floor(place / width) + 1}, column ${(place % width) + 1}`;
        cell.setAttribute("aria-label", `${where}: id ${text}${isChanged ? ", changed" : ""}`);
      });
    },
    select(place) {
      cells[selected].setAttribute("aria-selected", "false");
      cells[selected].tabIndex = -1;
      selected = place;
      cells[place].setAttribute("aria-selected", "true");
      cells[place].tabIndex = 0;
    },
    focus() {
      cells[selected].focus();
    },
    setNumbers(areShown) {
      board.classList.toggle("plain", !areShown);
      const isWide = areShown && width > LARGEST;
      board.style.setProperty("--least", isWide ? `${width * 2.75}rem` : "0px");
    },
  };
}

// A picture that fills in: `add(item)` takes a place's ids, and the picture so far if there is one.
export function makeDrawing(holder, [height, width], kept) {
  const picture = make("img", { alt: "The picture as it is drawn" });
  const veil = make("div", { "aria-hidden": "true" });
  const cells = Array.from({ length: height * width }, () => make("i"));
  const board = make("div", { class: "board" }, picture, veil);
  const ids = [...kept];
  veil.append(...cells);
  board.style.setProperty("--columns", width);
  holder.replaceChildren(board);
  holder.hidden = false;
  const reveal = () => cells.slice(0, ids.length).forEach((cell) => cell.classList.add("drawn"));
  return {
    ids,
    add(item) {
      ids.push(item.ids);
      if (!item.image) return;
      picture.src = item.image;
      reveal();
    },
  };
}
