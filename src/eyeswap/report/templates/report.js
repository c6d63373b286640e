// On a phone, sections begin folded. Then the example browser: filters, pages, and the boxes of every arm over the image.
// Data comes in as text only.
"use strict";
(() => {
  if (!matchMedia("(max-width: 46rem)").matches) return;
  document.querySelectorAll("main > section:not(#numbers, #examples)").forEach((section) => {
    const fold = document.createElement("details");
    const summary = document.createElement("summary");
    fold.className = "fold";
    summary.append(section.querySelector("h2"));
    fold.append(summary, ...section.childNodes);
    section.append(fold);
  });
  document.querySelectorAll("nav a").forEach((link) => link.addEventListener("click", () => {
    const fold = document.querySelector(`${link.getAttribute("href")} > .fold`);
    if (fold) fold.open = true;
  }));
})();
(() => {
  const { benchmarks, arms, hasLooks, images, examples } = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const filters = { benchmark: by("filter-benchmark"), arm: by("filter-arm"), outcome: by("filter-outcome"),
    text: by("filter-text"), disagree: by("filter-disagree") };
  const hiddenArms = new Set();
  let shown = [];
  let at = 0;

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  const disagrees = (example) => new Set(example.answers.map((answer) => answer.right)).size > 1;

  const words = (example) => [example.question, example.truth, example.subset, ...example.answers.map((answer) => answer.text)]
    .join("\n").toLowerCase();

  const fits = (example) => {
    const { benchmark, arm, outcome, text, disagree } = filters;
    if (!words(example).includes(text.value.trim().toLowerCase())) return false;
    if (benchmark.value && example.benchmark !== Number(benchmark.value)) return false;
    if (disagree.checked && !disagrees(example)) return false;
    if (!outcome.value) return true;
    const answers = arm.value ? [example.answers[Number(arm.value)]] : example.answers;
    return answers.some((answer) => answer.right === (outcome.value === "right"));
  };

  const rectangle = ([x1, y1, x2, y2], name, color) => {
    const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
    group.setAttribute("class", color ? "box" : "box truth");
    group.dataset.arm = name;
    for (const kind of ["halo", "line"]) {
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
      for (const [key, value] of Object.entries(place)) rect.setAttribute(key, `${100 * value}%`);
      rect.setAttribute("class", kind);
      if (color) rect.style.setProperty("--c", color);
      group.append(rect);
    }
    return group;
  };

  const drawPicture = (example) => {
    const picture = by("picture");
    const image = images[example.image];
    picture.className = "picture";
    picture.style.setProperty("--ratio", image ? image.width / image.height : 4 / 3);
    if (!image) {
      picture.replaceChildren(make("p", { class: "gone" }, "The image was not found when this page was written."));
      return;
    }
    const overlay = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    overlay.setAttribute("aria-hidden", "true");
    example.answers.forEach((answer, index) => {
      if (answer.box && !hiddenArms.has(index)) overlay.append(rectangle(answer.box, index, arms[index].color));
    });
    if (example.truthBox) overlay.append(rectangle(example.truthBox, "truth", null));
    picture.replaceChildren(make("img", { src: image.uri, alt: `Image for: ${example.question}` }), overlay);
  };

  // A grey veil over the image, thinner the more a token weighs: it shows on dark and on bright images.
  const veil = ({ grid: [rows, columns], weights, canvas: [left, top, right, bottom] }) => {
    const canvas = make("canvas", { width: columns, height: rows, "aria-hidden": "true" });
    const place = { left, top, width: right - left, height: bottom - top };
    for (const [key, value] of Object.entries(place)) canvas.style.setProperty(key, `${100 * value}%`);
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    [...atob(weights)].forEach((one, index) => pixels.data.set([118, 118, 118, 0.88 * (255 - one.charCodeAt(0))], 4 * index));
    context.putImageData(pixels, 0, 0);
    return canvas;
  };

  const drawLooks = (example) => {
    const image = images[example.image];
    by("looks").hidden = !hasLooks || !image;
    if (!hasLooks || !image) return;
    by("looks").replaceChildren(...example.answers.map(({ look, box }, index) => {
      const { name, color } = arms[index];
      const picture = make("div", { class: "picture look" }, make("img", { src: image.uri, alt: "" }));
      picture.style.setProperty("--ratio", image.width / image.height);
      const overlay = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      if (box) overlay.append(rectangle(box, index, color));
      if (look) picture.append(veil(look), overlay);
      const caption = make("p", {}, make("span", { class: "arm", style: `--c:${color}` }, name),
        look ? ` ${look.measure}` : " not shown");
      return make("div", {}, picture, caption);
    }));
  };

  const focusBox = (name) => {
    const picture = by("picture");
    picture.classList.toggle("focus", name !== null);
    picture.querySelectorAll("g").forEach((group) => group.classList.toggle("focused", group.dataset.arm === String(name)));
  };

  const markOf = (answer) => {
    const details = answer.invalid ? "no valid box" : answer.iou !== null ? `IoU ${answer.iou.toFixed(2)}`
      : answer.score > 0 && answer.score < 100 ? `${answer.score}%` : "";
    const mark = make("span", { class: `mark ${answer.right ? "right" : "wrong"}` },
      make("b", { "aria-hidden": "true" }, answer.right ? "✓" : "✗"),
      make("span", { class: "hidden" }, answer.right ? "correct" : "wrong"), details ? ` ${details}` : "");
    return mark;
  };

  const answerRow = (example, index) => {
    const answer = example.answers[index];
    const { name, color } = arms[index];
    const boxed = example.truthBox !== null;
    const who = make(boxed ? "button" : "span", { class: `arm ${boxed ? "" : "who"}`, style: `--c:${color}` }, name);
    const row = make("div", { class: "answer", "data-arm": index }, who, make("span", { class: "said" }, answer.text), markOf(answer));
    if (boxed) {
      who.type = "button";
      who.setAttribute("aria-pressed", String(!hiddenArms.has(index)));
      who.title = "Hide or show this arm's box";
      who.addEventListener("click", () => {
        if (!hiddenArms.delete(index)) hiddenArms.add(index);
        who.setAttribute("aria-pressed", String(!hiddenArms.has(index)));
        drawPicture(example);
      });
      row.addEventListener("mouseenter", () => focusBox(hiddenArms.has(index) || !answer.box ? null : index));
      row.addEventListener("mouseleave", () => focusBox(null));
    }
    return row;
  };

  const show = (position) => {
    by("browser").hidden = shown.length === 0;
    by("nothing").hidden = shown.length > 0;
    if (!shown.length) return;
    at = (position + shown.length) % shown.length;
    const example = examples[shown[at]];
    const benchmark = benchmarks[example.benchmark];
    const numRight = example.answers.filter((answer) => answer.right).length;
    by("counter").textContent = `${at + 1} of ${shown.length}, ${numRight} of ${arms.length} arms correct`;
    by("kind").textContent = [benchmark.title, example.subset, benchmark.metric].filter(Boolean).join(" · ");
    by("question").textContent = example.question;
    by("truth").replaceChildren(
      make("span", { class: example.truthBox ? "who dashed" : "who" }, "truth"), make("span", { class: "said" }, example.truth));
    by("answers").replaceChildren(...arms.map((_, index) => answerRow(example, index)));
    drawPicture(example);
    drawLooks(example);
    const strip = by("strip");
    [...strip.children].forEach((thumb, index) => thumb.setAttribute("aria-current", String(index === at)));
    const current = strip.children[at];
    strip.scrollTo({ left: current.offsetLeft - (strip.clientWidth - current.offsetWidth) / 2 });
  };

  const thumbnail = (number, position) => {
    const example = examples[number];
    const image = images[example.image];
    const dots = example.answers.map((answer, index) =>
      make("i", { class: answer.right ? "right" : "", style: `--c:${arms[index].color}` }));
    const numRight = example.answers.filter((answer) => answer.right).length;
    const label = `Example ${position + 1}, ${benchmarks[example.benchmark].title}, ${numRight} of ${arms.length} arms correct`;
    const thumb = make("button", { type: "button", "aria-label": label },
      image ? make("img", { src: image.uri, alt: "", loading: "lazy" }) : make("span", { class: "blank" }),
      make("span", { class: "dots", "aria-hidden": "true" }, ...dots));
    thumb.addEventListener("click", () => show(position));
    return thumb;
  };

  const refresh = () => {
    shown = examples.map((_, index) => index).filter((index) => fits(examples[index]));
    by("strip").replaceChildren(...shown.map(thumbnail));
    show(0);
  };

  filters.benchmark.append(make("option", { value: "" }, "all"), ...benchmarks.map((one, index) => make("option", { value: index }, one.title)));
  filters.arm.append(make("option", { value: "" }, "any arm"), ...arms.map((one, index) => make("option", { value: index }, one.name)));
  Object.values(filters).forEach((filter) => filter.addEventListener("input", refresh));
  by("clear").addEventListener("click", () => {
    Object.values(filters).forEach((filter) => { filter.value = ""; filter.checked = false; });
    refresh();
  });
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  by("previous").addEventListener("click", () => show(at - 1));
  by("next").addEventListener("click", () => show(at + 1));
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("select, input, .scroll, details")) return;
    event.preventDefault();
    show(at + step);
  });
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not(.data)").forEach((one) => { one.open = true; });
  });
  refresh();
})();
