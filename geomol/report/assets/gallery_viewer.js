/* The left half of the dialog: one molecule in 3D with 3Dmol.js. The whole page has one WebGL context, made when the first molecule is opened. */
window.geomolStage = function (box, data) {
  "use strict";
  var STYLES = {
    balls: { stick: { radius: 0.11 }, sphere: { scale: 0.25 } },
    sticks: { stick: { radius: 0.15 } },
    spheres: { sphere: { scale: 0.9 } }
  };
  var FRAMES_PER_SECOND = 10;
  var part = function (name) { return box.querySelector("." + name); };
  var stage = part("stage"), views = part("views"), remark = part("remark"), row = part("play-row");
  var play = part("play"), slider = part("frame"), readout = part("readout");
  var look = part("look"), hydrogens = part("hydrogens"), labels = part("labels");
  var viewer = null, failed = false, scenes = [], chosen = 0, frame = 0, timer = null;

  /* The background is opaque: halos blend with it, not with white. */
  function ground() { return getComputedStyle(stage).getPropertyValue("--stage").trim() || "white"; }

  function start() {
    if (viewer || failed) { return; }
    try {
      viewer = window.$3Dmol.createViewer(stage, { backgroundColor: ground(), antialias: true });
      if (!viewer) { throw new Error("no WebGL"); }
    } catch (error) {
      failed = true;
      viewer = null;
      stage.textContent = "The 3D view needs WebGL, which this browser does not offer.";
      stage.classList.add("unavailable");
    }
  }

  /* Atoms as 3Dmol.js wants them; `shape` holds z, x, b and perhaps w as in the data of the page. */
  function atomsOf(shape) {
    var atoms = shape.z.map(function (kind, i) {
      return {
        elem: data.symbols[kind], serial: i, index: i, bonds: [], bondOrder: [],
        x: shape.x[3 * i] * data.scale, y: shape.x[3 * i + 1] * data.scale, z: shape.x[3 * i + 2] * data.scale
      };
    });
    for (var k = 0; k < shape.b.length; k += 3) {
      var i = shape.b[k], j = shape.b[k + 1], order = shape.b[k + 2] === 4 ? 1.5 : shape.b[k + 2];
      atoms[i].bonds.push(j); atoms[i].bondOrder.push(order);
      atoms[j].bonds.push(i); atoms[j].bondOrder.push(order);
    }
    return atoms;
  }

  function add(shape, style) {
    var model = viewer.addModel();
    model.addAtoms(atomsOf(shape));
    model.setStyle({}, style);
    if (!hydrogens.checked) { model.setStyle({ elem: "H" }, {}); }
    return model;
  }

  function draw() {
    if (!viewer) { return; }
    var scene = scenes[chosen];
    var shape = scene && (scene.frames ? scene.frames[frame] : scene.shape);
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    if (shape && shape.x) {
      if (scene.ghost) { add(scene.ghost, { stick: { radius: 0.06, color: "#e08a2c" } }); }
      add(shape, scene.ghost ? { stick: { radius: 0.07 }, sphere: { scale: 0.14 } } : STYLES[look.value]);
      var atoms = atomsOf(shape);
      (shape.w || []).forEach(function (i) {
        var at = atoms[i];
        if (at.elem === "H" && !hydrogens.checked) { return; }
        viewer.addSphere({ center: { x: at.x, y: at.y, z: at.z }, radius: 0.62, color: "#ff2414", alpha: 0.42 });
      });
      if (labels.checked) {
        atoms.forEach(function (at, i) {
          if (at.elem === "H" && !hydrogens.checked) { return; }
          viewer.addLabel(at.elem + i, {
            position: { x: at.x, y: at.y, z: at.z }, fontSize: 12, fontColor: "#ffffff", backgroundColor: "#1f2a37",
            backgroundOpacity: 0.65, alignment: "center", inFront: true
          });
        });
      }
    }
    viewer.render();
  }

  function say() {
    var scene = scenes[chosen];
    var shape = scene && (scene.frames ? scene.frames[frame] : scene.shape);
    remark.textContent = !scene ? "" : shape && shape.x ? (scene.remark || "") :
      "Nothing to show: positions are missing or not finite.";
    if (scene && scene.frames) {
      slider.value = String(frame);
      readout.textContent = "step " + scene.index[frame] + " of " + (scene.total - 1);
    }
  }

  function show(index) { frame = index; say(); draw(); }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ Play";
    play.setAttribute("aria-pressed", "false");
  }

  function run() {
    var count = scenes[chosen].frames.length;
    if (frame === count - 1) { show(0); }
    timer = setInterval(function () {
      show(frame + 1);
      if (frame === count - 1) { stop(); }
    }, 1000 / FRAMES_PER_SECOND);
    play.textContent = "❚❚ Pause";
    play.setAttribute("aria-pressed", "true");
  }

  /* Zooms to the molecule, on the way from noise to the cloud that it starts as. */
  function fit() {
    if (!viewer) { return; }
    var scene = scenes[chosen];
    var kept = frame;
    if (scene && scene.frames) { frame = scene.frames.length - 1; draw(); }
    viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    viewer.zoomTo();
    viewer.zoom(scene && scene.frames ? 0.8 : 1.15);
    frame = kept;
    draw();
  }

  function choose(index) {
    stop();
    chosen = index;
    var scene = scenes[chosen];
    row.hidden = !(scene && scene.frames);
    frame = scene && scene.frames ? scene.frames.length - 1 : 0;
    if (scene && scene.frames) { slider.max = String(scene.frames.length - 1); }
    Array.prototype.forEach.call(views.children, function (button, i) {
      button.setAttribute("aria-pressed", String(i === index));
    });
    say();
    draw();
  }

  play.addEventListener("click", function () { if (timer) { stop(); } else { run(); } });
  slider.addEventListener("input", function () { stop(); show(Number(slider.value)); });
  [look, hydrogens, labels].forEach(function (control) { control.addEventListener("change", draw); });
  part("reset").addEventListener("click", fit);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    if (viewer) { viewer.setBackgroundColor(ground()); viewer.render(); }
  });
  window.addEventListener("resize", function () { if (viewer) { viewer.resize(); viewer.render(); } });

  return {
    /* `list`: scenes {name, shape | frames, index, total, ghost, remark}; the view is kept when `name` is there again. */
    open: function (list) {
      start();
      var last = scenes[chosen] && scenes[chosen].name;
      scenes = list;
      views.textContent = "";
      list.forEach(function (scene, i) {
        var button = document.createElement("button");
        button.type = "button";
        button.textContent = scene.name;
        button.addEventListener("click", function () { choose(i); fit(); });
        views.appendChild(button);
      });
      views.hidden = list.length < 2;
      if (viewer) { viewer.resize(); }
      choose(Math.max(0, list.findIndex(function (scene) { return scene.name === last; })));
      fit();
    },
    close: stop,
    shape: function () {
      var scene = scenes[chosen];
      return scene && (scene.frames ? scene.frames[frame] : scene.shape);
    }
  };
};
