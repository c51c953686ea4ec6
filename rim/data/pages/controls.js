function render({ model, el }) {
  el.classList.add("rim-widget");
  const form = document.createElement("div"), view = document.createElement("div");
  form.className = "rim-controls"; view.className = "rim-view"; view.setAttribute("aria-live", "polite");
  const inputs = model.get("controls").map(c => {
    const label = document.createElement("label"), shown = document.createElement("output");
    const text = document.createElement("span");
    const input = document.createElement(c.options ? "select" : "input");
    if (c.options) c.options.forEach(o => input.append(new Option(o, o)));
    else { input.type = "range"; input.min = c.min; input.max = c.max; input.step = c.step; }
    const read = () => c.options ? input.value : +input.value;
    input.addEventListener("input", () => {
      model.set("values", { ...model.get("values"), [c.name]: read() });
      model.save_changes();
    });
    text.append(`${c.label} `, shown); label.append(text, input); form.append(label);
    return () => {
      const value = model.get("values")[c.name];
      input.value = value;
      shown.textContent = c.options ? "" : value;
    };
  });
  const show = () => { inputs.forEach(update => update()); view.innerHTML = model.get("page"); };
  model.on("change:values", show); model.on("change:page", show);
  el.append(form, view); show();
}
export default { render };
