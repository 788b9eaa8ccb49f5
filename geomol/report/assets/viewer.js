/* Plays the trajectories of the page with 3Dmol.js. Where there are many, a viewer is made when it first comes into sight. */
(function () {
  "use strict";
  var EDGES = [[0, 1], [0, 2], [0, 3], [1, 4], [1, 5], [2, 4], [2, 6], [3, 5], [3, 6], [4, 7], [5, 7], [6, 7]];

  function asXYZ(data) {
    var text = [];
    data.frames.forEach(function (frame) {
      text.push(data.symbols.length, "frame");
      data.symbols.forEach(function (symbol, i) {
        var at = [0, 1, 2].map(function (k) { return (frame[3 * i + k] * data.scale).toFixed(3); });
        text.push(symbol + " " + at.join(" "));
      });
    });
    return text.join("\n") + "\n";
  }

  function drawCell(viewer, cell, colour) {
    viewer.removeAllShapes();
    var corners = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]].map(function (f) {
      return {
        x: f[0] * cell[0] + f[1] * cell[3] + f[2] * cell[6],
        y: f[0] * cell[1] + f[1] * cell[4] + f[2] * cell[7],
        z: f[0] * cell[2] + f[1] * cell[5] + f[2] * cell[8]
      };
    });
    EDGES.forEach(function (edge) {
      viewer.addLine({ start: corners[edge[0]], end: corners[edge[1]], color: colour });
    });
  }

  var STYLES = {
    balls: { stick: { radius: 0.11 }, sphere: { scale: 0.25 } },
    spheres: { sphere: { scale: 0.9 } },
    sticks: { stick: { radius: 0.15 } }
  };

  function start(box) {
    var data = JSON.parse(document.getElementById(box.dataset.source).textContent);
    var stage = box.querySelector(".stage");
    var play = box.querySelector(".play");
    var slider = box.querySelector(".frame");
    var speed = box.querySelector(".speed");
    var look = box.querySelector(".look");
    var readout = box.querySelector(".readout");
    var count = data.frames.length;
    var viewer;
    try {
      viewer = window.$3Dmol.createViewer(stage, { backgroundColor: "white", backgroundAlpha: 0, antialias: true });
      if (!viewer) { throw new Error("no WebGL"); }
    } catch (error) {
      stage.textContent = "The 3D view needs WebGL, which this browser does not offer.";
      stage.classList.add("unavailable");
      return;
    }
    viewer.addModelsAsFrames(asXYZ(data), "xyz");
    viewer.setStyle({}, STYLES[look.value]);
    if (data.cells) { drawCell(viewer, data.cells[0], "#6b7b8f"); }
    if (data.cells) { viewer.rotate(-72, "x"); viewer.rotate(24, "y"); }
    viewer.zoomTo();
    viewer.zoom(data.cells ? 1.1 : 1.45);
    viewer.render();
    var home = viewer.getView();

    var current = 0, timer = null, busy = false;
    function show(index) {
      current = index;
      slider.value = String(index);
      var text = "frame " + (data.index[index] + 1);
      if (data.time_fs) { text += " · " + (data.time_fs[index] / 1000).toFixed(3) + " ps"; }
      readout.textContent = text;
      busy = true;
      Promise.resolve(viewer.setFrame(index)).then(function () {
        if (data.cells) { drawCell(viewer, data.cells[index], "#6b7b8f"); }
        viewer.render();
        busy = false;
      });
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "▶ Play";
      play.setAttribute("aria-pressed", "false");
    }
    function run() {
      clearInterval(timer);
      timer = setInterval(function () { if (!busy) { show((current + 1) % count); } }, 1000 / Number(speed.value));
      play.textContent = "❚❚ Pause";
      play.setAttribute("aria-pressed", "true");
    }
    play.addEventListener("click", function () { if (timer) { stop(); } else { run(); } });
    slider.addEventListener("input", function () { stop(); show(Number(slider.value)); });
    speed.addEventListener("change", function () { if (timer) { run(); } });
    look.addEventListener("change", function () { viewer.setStyle({}, STYLES[look.value]); viewer.render(); });
    box.querySelector(".reset").addEventListener("click", function () { viewer.setView(home); viewer.render(); });
    window.addEventListener("resize", function () { viewer.resize(); viewer.render(); });
    show(0);
    if (count < 2) { play.disabled = true; slider.disabled = true; }
  }

  var boxes = Array.prototype.slice.call(document.querySelectorAll(".viewer"));
  /* Browsers allow some 16 WebGL contexts; up to a few are simply started. */
  if (boxes.length <= 6 || !("IntersectionObserver" in window)) { boxes.forEach(start); return; }
  var observer = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting) { observer.unobserve(entry.target); start(entry.target); }
    });
  }, { rootMargin: "200px" });
  boxes.forEach(function (box) { observer.observe(box); });
})();
