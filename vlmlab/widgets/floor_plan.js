// The floor from above. Pointer: drag an object. Keyboard: arrow keys move the focused object, [ and ] turn it.
// Loads nothing. World units are scene units; the group `world` turns them to the viewer's side, up is away from it.

const NS = "http://www.w3.org/2000/svg";
const STEP = 0.1; // scene units a key press; five times that with Shift
const TURN = 15; // degrees a key press
const EVERY = 120; // milliseconds between two messages while something is dragged
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const HELP = "Drag an object, or focus it: arrow keys move it, [ and ] turn it, Shift moves it further.";

function make(name, attributes, parent) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "vlmlab-floor-plan";
  root.dataset.testid = "floor-plan";
  const svg = make("svg", { viewBox: "-2.4 -2.8 4.8 5.3", width: 330, height: 364, role: "application" }, root);
  svg.setAttribute("aria-label", `Floor plan from above, the camera at the bottom. ${HELP}`);
  svg.style.touchAction = "none"; // a finger drags objects, not the page
  make("rect", { x: -2.4, y: -2.8, width: 4.8, height: 5.3, fill: "#F4F2EE" }, svg);
  const world = make("g", {}, svg);
  const wall = make("rect", { x: -12, width: 24, height: 12, fill: "#C9CCD2" }, world);
  const view = make("path", { fill: "none", stroke: "#8C8C8C", "stroke-width": 0.02, "stroke-dasharray": "0.08" }, svg);
  const things = make("g", {}, world);
  const labels = make("g", { "pointer-events": "none", "font-size": 0.2, "text-anchor": "middle" }, svg);
  labels.setAttribute("style", "paint-order:stroke;stroke-width:0.05");
  make("path", { d: "M0 2.12 L-0.14 2.4 L0.14 2.4 Z", fill: "#222222", "data-testid": "camera" }, svg);
  make("text", { x: 0.2, y: 2.4, "font-size": 0.2 }, svg).textContent = "camera";
  const help = document.createElement("p");
  help.textContent = HELP;
  const said = document.createElement("p");
  said.setAttribute("aria-live", "polite");
  said.dataset.testid = "floor-plan-status";
  root.append(help, said);
  el.append(root);

  const shapes = new Map(); // id -> { group, body, front, label, above, x, y, yaw }
  let drag = null;
  let last = 0;

  const frame = () => {
    const a = (model.get("azimuth") * Math.PI) / 180;
    return { c: Math.cos(a), s: Math.sin(a) };
  };

  function place(shape, x, y, yaw) {
    const { c, s } = frame();
    Object.assign(shape, { x, y, yaw });
    shape.group.setAttribute("transform", `translate(${x} ${y}) rotate(${yaw})`);
    shape.label.setAttribute("x", x * c + y * s);
    shape.label.setAttribute("y", x * s - y * c + (shape.above ? -0.2 : 0.06)); // beside the label of what carries it
  }

  function add(id) {
    const group = make("g", { tabindex: 0, role: "button", "data-testid": `object-${id}` }, things);
    group.setAttribute("aria-roledescription", "movable object");
    group.style.cursor = "grab";
    group.style.outline = "none"; // the browser's own ring is measured in scene units; the stroke shows the focus
    const shape = {
      group,
      body: make("rect", {}, group),
      front: make("path", { fill: "#222222" }, group),
      label: make("text", { "data-testid": `label-${id}` }, labels),
    };
    group.addEventListener("focus", () => select(id));
    group.addEventListener("pointerdown", (event) => begin(event, id));
    group.addEventListener("keydown", (event) => key(event, id));
    shapes.set(id, shape);
    return shape;
  }

  function draw() {
    const { c, s } = frame();
    world.setAttribute("transform", `matrix(${c} ${s} ${s} ${-c} 0 0)`);
    wall.setAttribute("y", model.get("wall"));
    const far = model.get("distance");
    const half = (far + 3) * Math.tan((model.get("fov") * Math.PI) / 360);
    view.setAttribute("d", `M${-half} -3 L0 ${far} L${half} -3`);
    const objects = model.get("objects");
    for (const [id, shape] of shapes) {
      if (id < objects.length) continue;
      shape.group.remove();
      shape.label.remove();
      shapes.delete(id);
    }
    for (const object of objects) {
      if (drag && drag.id === object.id) continue; // the pointer holds it
      const shape = shapes.get(object.id) || add(object.id);
      const [w, h] = object.half;
      const box = { x: -w, y: -h, width: 2 * w, height: 2 * h, fill: object.colour };
      for (const [name, value] of Object.entries(box)) shape.body.setAttribute(name, value);
      shape.front.setAttribute("d", object.front ? `M-0.1 ${-h} L0.1 ${-h} L0 ${-h - 0.17} Z` : "");
      shape.label.textContent = object.label;
      shape.label.setAttribute("fill", object.dark ? "#FFFFFF" : "#222222");
      shape.label.setAttribute("stroke", object.dark ? "#222222" : "#FFFFFF");
      shape.above = object.carried;
      place(shape, object.x, object.y, object.yaw);
      const right = object.x * c + object.y * s;
      const away = object.y * c - object.x * s;
      const where = `${right.toFixed(1)} to the right, ${away.toFixed(1)} away`;
      shape.group.setAttribute("aria-label", `${object.full}, ${where}, turned ${Math.round(object.yaw)} degrees`);
    }
    // what is higher lies on top; a node that has the focus must not be moved in the document
    const order = [...objects].sort((one, other) => one.top - other.top);
    if (!things.contains(things.getRootNode().activeElement)) things.append(...order.map((one) => shapes.get(one.id).group));
    outline();
  }

  function outline() {
    for (const [id, shape] of shapes) {
      const chosen = id === model.get("selected");
      shape.body.setAttribute("stroke", chosen ? "#E69F00" : "#222222");
      shape.body.setAttribute("stroke-width", chosen ? 0.07 : 0.02);
    }
  }

  function select(id) {
    if (model.get("selected") === id) return;
    model.set("selected", id);
    model.save_changes();
  }

  function pointed(event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(world.getScreenCTM().inverse());
  }

  function begin(event, id) {
    if (drag || (event.button !== 0 && event.pointerType === "mouse")) return;
    const shape = shapes.get(id);
    const at = pointed(event);
    drag = { id, pointer: event.pointerId, dx: shape.x - at.x, dy: shape.y - at.y, moved: false };
    shape.group.setPointerCapture(event.pointerId);
    shape.group.focus();
    event.preventDefault();
  }

  function follow(event) {
    if (!drag || event.pointerId !== drag.pointer) return;
    const shape = shapes.get(drag.id);
    const at = pointed(event);
    drag.moved = true;
    place(shape, at.x + drag.dx, at.y + drag.dy, shape.yaw);
    if (!drag.timer) drag.timer = setTimeout(tell, Math.max(0, last + EVERY - event.timeStamp));
  }

  function tell() {
    const { x, y } = shapes.get(drag.id);
    drag.timer = 0;
    last = performance.now();
    model.send({ kind: "move", id: drag.id, x, y, final: false });
  }

  function drop(event) {
    if (!drag || event.pointerId !== drag.pointer) return;
    const { id, moved, timer } = drag;
    clearTimeout(timer);
    const { x, y } = shapes.get(id);
    drag = null;
    if (event.type === "pointercancel") draw();
    else if (moved) model.send({ kind: "move", id, x, y, final: true });
  }

  function key(event, id) {
    if (event.key in KEYS) {
      const { c, s } = frame();
      const step = event.shiftKey ? 5 * STEP : STEP;
      const [right, away] = KEYS[event.key].map((sign) => sign * step);
      model.send({ kind: "step", id, dx: right * c - away * s, dy: right * s + away * c, final: true });
    } else if (event.key === "[" || event.key === "]") {
      model.send({ kind: "turn", id, by: event.key === "]" ? TURN : -TURN, final: true });
    } else return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has meanings of its own for keys
  }

  function told(message) {
    if (message.kind !== "refused") return;
    said.textContent = `Refused: ${message.reason}.`;
    draw();
  }

  function changed() {
    said.textContent = "";
    draw();
  }

  const traits = ["objects", "azimuth", "fov", "distance", "wall"];
  for (const trait of traits) model.on(`change:${trait}`, changed);
  model.on("change:selected", outline);
  model.on("msg:custom", told);
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerup", drop);
  svg.addEventListener("pointercancel", drop);
  draw();
  return () => {
    for (const trait of traits) model.off(`change:${trait}`, changed);
    model.off("change:selected", outline);
    model.off("msg:custom", told);
  };
}

export default { render };
