// Answers as rows of words to click. Tab reaches a row, arrow keys go from word to word, Enter or Space chooses.
// Loads nothing; what models say is set as text, never as markup.

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const LOOK = "margin:1px;padding:2px 5px;border:1px solid #8C8C8C;border-radius:3px;cursor:pointer;font:inherit;";
const PLAIN = "background:#FFFFFF;color:#222222;";
const PRESSED = "background:#FCE3B0;color:#222222;font-weight:bold;text-decoration:underline;";

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "vlmlab-word-strip";
  root.dataset.testid = "word-strip";
  el.append(root);
  let buttons = []; // a list a row

  function draw() {
    root.replaceChildren();
    buttons = model.get("answers").map((answer, row) => {
      const line = document.createElement("div");
      line.setAttribute("role", "toolbar");
      line.setAttribute("aria-label", `The answer of ${answer.model}; arrow keys go from word to word`);
      line.dataset.testid = `words-${row}`;
      const name = document.createElement("b");
      name.textContent = `${answer.model}: `;
      line.append(name);
      root.append(line);
      return answer.words.map((word, index) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = word.text;
        const place = `word ${index + 1} of ${answer.words.length}, ${answer.model}`;
        button.setAttribute("aria-label", `${word.text}, ${place}`);
        button.dataset.testid = `word-${row}-${index}`;
        button.addEventListener("click", () => choose(row, index));
        button.addEventListener("keydown", (event) => go(event, row, index));
        line.append(button);
        return button;
      });
    });
    mark();
  }

  function mark() {
    const pressed = new Set(model.get("pressed").map(String));
    buttons.forEach((line, row) => {
      const first = Math.max(0, line.findIndex((_, index) => pressed.has(`${row},${index}`)));
      line.forEach((button, index) => {
        const on = pressed.has(`${row},${index}`);
        button.setAttribute("aria-pressed", String(on));
        button.style.cssText = LOOK + (on ? PRESSED : PLAIN);
        button.tabIndex = index === first ? 0 : -1;
      });
    });
  }

  function choose(row, index) {
    model.set("chosen", [row, index]);
    model.save_changes();
  }

  function go(event, row, index) {
    if (!(event.key in STEPS)) return;
    const [down, right] = STEPS[event.key];
    const line = buttons[row + down];
    const next = line && line[Math.min(index + right, down ? line.length - 1 : Infinity)];
    if (next) next.focus();
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has meanings of its own for keys
  }

  model.on("change:answers", draw);
  model.on("change:pressed", mark);
  draw();
  return () => {
    model.off("change:answers", draw);
    model.off("change:pressed", mark);
  };
}

export default { render };
