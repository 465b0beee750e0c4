// Draws each chart once it is seen: a report of many loads has more of them than a page should draw at once.
"use strict";

function withColours(layout) {
  // Of the body's style, which has plain colours in place of the style sheet's light-dark(): plotly reads no others.
  const { color, borderTopColor: line } = getComputedStyle(document.body);
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  const whole = {
    margin: { l: 60, r: 60, t: 10, b: 45 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    hovermode: "closest",
    modebar: { bgcolor: "transparent", remove: ["lasso2d", "select2d", "zoomIn2d", "zoomOut2d", "autoScale2d"] },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    ...layout,
    font: { color, family: "system-ui, sans-serif" },
  };
  for (const name of Object.keys(whole)) {
    if (/^[xy]axis/.test(name)) whole[name] = { ...axis, automargin: true, ...whole[name] };
  }
  return whole;
}

function draw(plot) {
  const figure = JSON.parse(plot.querySelector("script").textContent);
  const canvas = plot.querySelector(".canvas");
  const options = { responsive: true, displaylogo: false, showSendToCloud: false };
  Plotly.react(canvas, figure.data, withColours(figure.layout), options);
}

const drawn = new Set();
const observer = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting && !drawn.has(target)) {
      drawn.add(target);
      draw(target);
    }
  }
}, { rootMargin: "400px" });

document.querySelectorAll(".plot").forEach((plot) => observer.observe(plot));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
