function render({ model, el }) {
  el.classList.add("rim-widget");
  const left = document.createElement("div"), right = document.createElement("div");
  left.className = "rim-left"; right.className = "rim-right"; left.tabIndex = 0;
  left.setAttribute("role", "application");
  left.setAttribute("aria-label", "Image: click a pixel, or move with the arrow keys");
  right.setAttribute("aria-live", "polite");
  left.innerHTML = model.get("stage");
  const stage = left.querySelector(".rim-stage"), mark = document.createElement("div");
  const width = +stage.dataset.width, height = +stage.dataset.height;
  mark.className = "rim-mark"; stage.append(mark);
  const within = (value, size) => Math.max(0, Math.min(size - 1, value));
  const go = (x, y) => { model.set("place", [within(x, width), within(y, height)]); model.save_changes(); };
  const show = () => {
    const [x, y] = model.get("place");
    mark.style.left = `${100 * (x + 0.5) / width}%`; mark.style.top = `${100 * (y + 0.5) / height}%`;
    right.innerHTML = model.get("page");
  };
  stage.addEventListener("click", e => {
    const box = stage.getBoundingClientRect();
    go(Math.floor((e.clientX - box.left) / box.width * width), Math.floor((e.clientY - box.top) / box.height * height));
  });
  left.addEventListener("keydown", e => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (!move) return;
    e.preventDefault(); e.stopPropagation();
    const [x, y] = model.get("place"), step = Math.ceil(Math.max(width, height) / 64);
    go(x + step * move[0], y + step * move[1]);
  });
  model.on("change:page", show); model.on("change:place", show);
  el.append(left, right); show();
}
export default { render };
