let lists = 0;
function correct(context) {
  render(context);
  const { model, el } = context, make = tag => document.createElement(tag), stage = el.querySelector(".rim-stage");
  const form = make("form"), input = make("input"), names = make("datalist"), button = make("button");
  const back = make("button"), label = make("label"), draw = make("input");
  names.id = `rim-names-${lists++}-${Math.random().toString(36).slice(2)}`; input.setAttribute("list", names.id);
  input.setAttribute("aria-label", "What this region is"); input.placeholder = "what this region is";
  back.type = "button"; back.textContent = "Take back"; back.title = "the last correction at this pixel";
  draw.type = "checkbox"; label.append(draw, " SAM draws it from the points that are clicked");
  label.hidden = !model.get("draws");
  form.className = "rim-correct"; form.append(input, names, button, back, label);
  let points = [];
  const mark = () => {
    stage.querySelectorAll(".rim-point").forEach(e => e.remove());
    for (const [x, y] of points) {
      const dot = make("div"); dot.className = "rim-point"; stage.append(dot);
      dot.style.left = `${100 * (x + 0.5) / stage.dataset.width}%`;
      dot.style.top = `${100 * (y + 0.5) / stage.dataset.height}%`;
    }
  };
  const ready = () => {
    button.disabled = back.disabled = false; button.textContent = "Correct"; points = []; mark();
  };
  const send = name => {
    const place = model.get("place"), drawn = name && draw.checked ? (points.length ? points : [place]) : [];
    model.set("said", [name, ...place, (model.get("said")[3] ?? 0) + 1, drawn]); model.save_changes();
    input.value = ""; button.disabled = back.disabled = true; button.textContent = "naming again…";
  };
  form.addEventListener("submit", e => {
    e.preventDefault(); e.stopPropagation();
    if (input.value.trim() && !button.disabled) send(input.value.trim());
  });
  back.addEventListener("click", () => send(""));
  stage.addEventListener("click", () => { if (draw.checked) { points = [...points, model.get("place")]; mark(); } });
  draw.addEventListener("change", () => { points = []; mark(); });
  form.addEventListener("keydown", e => e.stopPropagation());
  const fill = () => names.replaceChildren(...model.get("names").map(n => new Option(n, n)));
  const redraw = () => {
    const parsed = make("div"); parsed.innerHTML = model.get("stage");
    for (const part of ["img", "svg"])
      stage.querySelector(part).replaceWith(parsed.querySelector(`.rim-stage ${part}`));
  };
  model.on("change:names", fill); model.on("change:stage", redraw); model.on("change:answered", ready);
  el.querySelector(".rim-left").append(form); fill(); ready();
}
export default { render: correct };
