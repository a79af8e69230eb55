(() => {
  "use strict";
  const tip = document.getElementById("tip");
  const add = (name, text) => {
    const line = document.createElement(name);
    line.textContent = text;
    tip.append(line);
  };
  const hide = () => { tip.hidden = true; };
  const show = (token) => {
    const context = token.closest(".ctx");
    if (!context) return hide();
    const tokens = [...context.querySelectorAll("bdi")];
    tip.replaceChildren();
    add("b", token.textContent || "part of a character, or a special token");
    add("span", token.dataset.a ? `activation ${token.dataset.a}` : "not active");
    if (context.dataset.row) add("span", `row ${Number(context.dataset.row) + tokens.indexOf(token)}`);
    if (context.dataset.doc) add("span", context.dataset.doc);
    tip.hidden = false;
    const at = token.getClientRects()[0] || token.getBoundingClientRect();
    const left = Math.min(at.left, innerWidth - tip.offsetWidth - 8);
    const above = at.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : at.bottom + 8}px`;
  };
  document.addEventListener("pointerover", (event) => {
    const token = event.target.closest && event.target.closest(".ctx bdi");
    if (token) show(token); else hide();
  });
  addEventListener("scroll", hide, { passive: true });
  document.addEventListener("click", (event) => {
    const example = event.target.closest(".ex");
    if (example && !String(getSelection())) example.classList.toggle("open");
  });
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
  });

  const follow = (relation) => {
    const link = document.querySelector(`a[rel~="${relation}"]`);
    if (link) link.click();
    return Boolean(link);
  };
  const step = (by) => {
    const rows = [...document.querySelectorAll(".list tbody tr")];
    if (rows.length) {
      const at = rows.findIndex((row) => row.classList.contains("at"));
      const next = rows[Math.min(Math.max(at + by, 0), rows.length - 1)];
      rows.forEach((row) => row.classList.toggle("at", row === next));
      next.scrollIntoView({ block: "nearest" });
      return;
    }
    if (follow(by > 0 ? "next" : "prev")) return;
    const tops = [...document.querySelectorAll(".features > .feature")];
    const now = (part) => part.getBoundingClientRect().top - 60;
    const goal = by > 0 ? tops.find((part) => now(part) > 4) : tops.findLast((part) => now(part) < -4);
    if (goal) goal.scrollIntoView();
  };
  const keys = {
    j: () => step(1), k: () => step(-1),
    ArrowRight: () => follow("next"), ArrowLeft: () => follow("prev"),
    w: () => document.body.classList.toggle("wrap"),
    l: () => follow("up"), r: () => follow("random"),
    "/": () => { const box = document.querySelector("input[type=search]"); if (box) box.focus(); },
    Enter: () => { const link = document.querySelector(".list tr.at a"); if (link) link.click(); },
    Escape: () => { hide(); if (document.activeElement) document.activeElement.blur(); },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, select");
    if (typing && event.key !== "Escape") return;
    const action = Object.hasOwn(keys, event.key) ? keys[event.key] : undefined;
    if (!action) return;
    if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
    if (event.key === "/") event.preventDefault();
    action();
  });
})();
