/* The cards of the gallery: filters, order, pages, and the dialog with one molecule. Text from the data enters as text alone. */
(function () {
  "use strict";
  var data = JSON.parse(document.getElementById("gallery-data").textContent);
  var PAGE = 24, SHOWN_PROPERTIES = 3;
  var SVG = "http://www.w3.org/2000/svg";
  var NAMES = { stable: "stable", valid: "valid", connected: "one piece", unique: "first", novel: "new" };
  var NEGATED = { stable: "not stable", valid: "not valid", connected: "in pieces", unique: "repeat", novel: "known" };
  var byId = function (id) { return document.getElementById(id); };
  var all = function (selector, root) { return Array.prototype.slice.call((root || document).querySelectorAll(selector)); };
  var dialog = byId("show"), stage = null, found = [], page = 0, descending = false, opened = -1;
  var atoms = data.molecules.map(function (molecule) { return molecule.z.length; });

  function element(name, attributes, content) {
    var made = document.createElement(name);
    Object.keys(attributes || {}).forEach(function (key) { made.setAttribute(key, attributes[key]); });
    [].concat(content === undefined ? [] : content).forEach(function (child) {
      made.appendChild(typeof child === "object" ? child : document.createTextNode(String(child)));
    });
    return made;
  }

  /* ---- what is known of a molecule ---- */

  function judge() { return data.protocols[Number(byId("protocol").value) || 0]; }

  /* "1", "0", or "" where the question makes no sense. */
  function flag(protocol, name, i) {
    if (name === "unique") { return !protocol.smiles[i] ? "" : protocol.repeat[i] < 0 ? "1" : "0"; }
    if (name === "novel") { return protocol.novel && protocol.smiles[i] ? protocol.novel[i] : ""; }
    return protocol[name][i];
  }

  /* C3H6 with small digits below. */
  function formula(i) {
    var text = data.molecules[i].f.replace(/\d/g, function (digit) { return String.fromCharCode(0x2080 + Number(digit)); });
    return text || "no atoms";
  }

  function numeric(value) { return value === null ? NaN : Number(value); }

  function written(column, i) {
    var value = column.values[i];
    if (value === null) { return "–"; }
    if (!column.numeric) { return value; }
    var number = Number(value);
    if (!isFinite(number)) { return number > 0 ? "∞" : "−∞"; }
    var text = String(Number(number.toPrecision(4))).replace("-", "−");
    return column.unit ? text + " " + column.unit : text;
  }

  /* ---- formulas ---- */

  function part(name, attributes, text) {
    var made = document.createElementNS(SVG, name);
    Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
    if (text !== undefined) { made.textContent = text; }
    return made;
  }

  function depiction(i) {
    var molecule = data.molecules[i], drawing = molecule.d;
    if (!drawing) {
      var why = molecule.z.length ? "no formula can be drawn" : "no atoms";
      return element("div", { "class": "formula none" }, why);
    }
    var svg = part("svg", {
      viewBox: "0 0 " + data.drawing.join(" "), "class": "formula", role: "img", "aria-label": "formula of " + molecule.f
    });
    var dots = function (list, radius, kind) {
      for (var k = 0; k < (list || []).length; k += 2) {
        svg.appendChild(part("circle", { cx: list[k], cy: list[k + 1], r: radius, "class": kind }));
      }
    };
    dots(drawing.m, 95, "halo");
    Object.keys(drawing.p || {}).forEach(function (key) {
      svg.appendChild(part("path", { d: drawing.p[key], "class": "k" + key.charAt(0) + (key.length > 1 ? " dashed" : "") }));
    });
    (drawing.t || []).forEach(function (letter) {
      svg.appendChild(part("text", { x: letter[1], y: letter[2], "font-size": letter[3], "class": "k" + letter[4] }, letter[0]));
    });
    dots(drawing.r, 11, "radical");
    return svg;
  }

  /* ---- cards ---- */

  function badge(protocol, name, i) {
    var value = flag(protocol, name, i);
    if (value === "") { return null; }
    var good = value === "1", text = good ? NAMES[name] : NEGATED[name];
    if (name === "unique" && !good) { text = "repeat of #" + protocol.repeat[i]; }
    return element("span", { "class": "chip " + (good ? "pass" : name === "novel" || name === "unique" ? "other" : "fail") }, text);
  }

  function badges(protocol, i) {
    return Object.keys(NAMES).map(function (name) { return badge(protocol, name, i); }).filter(Boolean);
  }

  function shownColumns() {
    var columns = data.properties.filter(function (column) { return column.numeric; }).slice(0, SHOWN_PROPERTIES);
    var sorted = sortColumn();
    if (sorted && columns.indexOf(sorted) < 0) { columns = [sorted].concat(columns.slice(0, SHOWN_PROPERTIES - 1)); }
    return columns;
  }

  function card(i) {
    var protocol = judge(), smiles = protocol.short[i];
    var attributes = { "class": "mol", href: "#molecule=" + i, "data-index": i, "data-atoms": atoms[i] };
    Object.keys(NAMES).forEach(function (name) { attributes["data-" + name] = flag(protocol, name, i); });
    var lines = shownColumns().filter(function (column) { return column.values[i] !== null; }).map(function (column) {
      return element("div", {}, [element("dt", {}, column.label), element("dd", {}, written(column, i))]);
    });
    var marks = [data.relaxed && data.relaxed[i] ? "relaxed" : "", data.trajectories[i] ? "from noise" : ""].filter(Boolean);
    var head = [element("b", {}, "#" + i), element("span", {}, formula(i))];
    if (marks.length) { head.push(element("span", { "class": "marks" }, marks.join(" · "))); }
    return element("a", attributes, [
      element("div", { "class": "head" }, head),
      depiction(i),
      element("code", { title: smiles || protocol.reason[i], "class": smiles ? "" : "reason" }, smiles || protocol.reason[i] || " "),
      element("div", { "class": "chips" }, badges(protocol, i))
    ].concat(lines.length ? [element("dl", {}, lines)] : []));
  }

  /* ---- filters and order ---- */

  function sortColumn() {
    var key = byId("sort").value;
    return /^p\d+$/.test(key) ? data.properties[Number(key.slice(1))] : null;
  }

  function passes(i, asked) {
    var protocol = asked.protocol;
    if (asked.flags.some(function (ask) { return flag(protocol, ask.name, i) !== ask.value; })) { return false; }
    if (asked.fault !== "" && protocol.fault[i] !== Number(asked.fault)) { return false; }
    if (atoms[i] < asked.from || atoms[i] > asked.to) { return false; }
    if (!asked.text) { return true; }
    var sum = data.molecules[i].f.toLowerCase();
    return [protocol.short[i], protocol.smiles[i]].some(function (smiles) { return smiles.indexOf(asked.text) >= 0; }) ||
      sum.indexOf(asked.text.toLowerCase()) >= 0;
  }

  function compare(first, second) {
    /* Nothing comes last, whichever way the order goes. */
    if (first === second) { return 0; }
    if (first === null || second === null) { return first === null ? 2 : -2; }
    return first < second ? -1 : 1;
  }

  function order(list) {
    var key = byId("sort").value, column = sortColumn();
    var value = function (i) {
      if (key === "atoms") { return atoms[i]; }
      if (key === "formula") { return data.molecules[i].f; }
      if (!column) { return i; }
      return column.numeric && column.values[i] !== null ? numeric(column.values[i]) : column.values[i];
    };
    var values = data.molecules.map(function (_, i) { return value(i); });
    return list.sort(function (a, b) {
      var way = compare(values[a], values[b]);
      if (Math.abs(way) === 2) { return way; }
      return (descending ? -way : way) || a - b;
    });
  }

  function update() {
    var limit = function (id, otherwise) { return byId(id).value === "" ? otherwise : Number(byId(id).value); };
    var asked = {
      protocol: judge(),
      flags: all(".ask").filter(function (select) { return select.value !== ""; }).map(function (select) {
        return { name: select.dataset.flag, value: select.value };
      }),
      fault: byId("fault").value, text: byId("text").value.trim(),
      from: limit("atoms-from", 0), to: limit("atoms-to", Infinity)
    };
    found = order(data.molecules.map(function (_, i) { return i; }).filter(function (i) { return passes(i, asked); }));
    turn(0);
  }

  function turn(to) {
    var pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(to, 0), pages - 1);
    var rows = found.slice(page * PAGE, (page + 1) * PAGE);
    var cards = byId("cards");
    cards.textContent = "";
    rows.forEach(function (i) { cards.appendChild(card(i)); });
    if (!rows.length) {
      var nothing = data.molecules.length ? "No molecule answers to all of this." : "There are no molecules.";
      cards.appendChild(element("p", { "class": "muted" }, nothing));
    }
    var count = found.length.toLocaleString("en"), total = data.molecules.length.toLocaleString("en");
    all(".found").forEach(function (place) {
      place.textContent = found.length === data.molecules.length ? total + " molecules" : count + " of " + total + " molecules";
    });
    all(".turn").forEach(function (place) {
      place.textContent = "";
      if (pages === 1) { return; }
      var step = function (text, name, target, possible) {
        var button = element("button", { type: "button", "aria-label": name }, text);
        button.disabled = !possible;
        button.addEventListener("click", function () {
          turn(target);
          if (place.closest(".pager") !== document.querySelector(".pager")) { byId("molecules").scrollIntoView(); }
        });
        place.appendChild(button);
      };
      step("⇤", "First page", 0, page > 0);
      step("←", "Previous page", page - 1, page > 0);
      place.appendChild(element("span", {}, "page " + (page + 1) + " of " + pages));
      step("→", "Next page", page + 1, page < pages - 1);
      step("⇥", "Last page", pages - 1, page < pages - 1);
    });
  }

  function listFaults() {
    var select = byId("fault");
    select.textContent = "";
    select.appendChild(element("option", { value: "" }, "any"));
    judge().faults.forEach(function (kind, place) { select.appendChild(element("option", { value: place }, kind)); });
  }

  /* ---- one molecule ---- */

  function scenes(i) {
    var molecule = data.molecules[i], relaxed = data.relaxed && data.relaxed[i], way = data.trajectories[i];
    var list = [{ name: "As generated", shape: molecule }];
    if (relaxed) {
      var shape = { z: molecule.z, x: relaxed.x, b: relaxed.b || molecule.b, q: relaxed.b ? [] : molecule.q };
      var remark = relaxed.b ? "Relaxation changed the bonds." : "Relaxation kept the bonds.";
      list.push({ name: "Relaxed", shape: shape, remark: remark });
      list.push({ name: "Both", shape: shape, ghost: molecule, remark: "Orange: as generated. " + remark });
    }
    if (way) {
      list.push({
        name: "From noise", index: way.index, total: way.total,
        frames: way.x.map(function (x, t) { return { z: way.z[t], x: x, b: way.b[t] }; })
      });
    }
    return list;
  }

  function table(head, rows) {
    var line = function (cells, tag) { return element("tr", {}, cells.map(function (cell) { return element(tag, {}, cell); })); };
    return element("div", { "class": "scroll" }, element("table", {}, [
      element("thead", {}, line(head, "th")),
      element("tbody", {}, rows.map(function (row) { return line(row, "td"); }))
    ]));
  }

  function verdicts(i) {
    return data.protocols.map(function (protocol) {
      var smiles = protocol.short[i];
      var stable = protocol.stable_atoms[i] + " of " + atoms[i] + " atoms stable";
      var lines = [element("h3", {}, "Protocol " + protocol.name), element("div", { "class": "chips" }, badges(protocol, i))];
      if (smiles) {
        var copy = element("button", { type: "button" }, "Copy");
        copy.addEventListener("click", function () { copyText(smiles, copy); });
        lines.push(element("div", { "class": "smiles" }, [element("code", { title: protocol.smiles[i] }, smiles), copy]));
      }
      var pieces = protocol.pieces[i] > 1 ? " · " + protocol.pieces[i] + " pieces" : "";
      lines.push(element("p", { "class": "muted" }, stable + pieces + (protocol.reason[i] ? " · " + protocol.reason[i] : "")));
      return element("div", { "class": "verdicts" }, lines);
    });
  }

  function copyText(text, button) {
    var done = function (word) {
      button.textContent = word;
      setTimeout(function () { button.textContent = "Copy"; }, 1500);
    };
    if (!navigator.clipboard) { done("not possible"); return; }
    navigator.clipboard.writeText(text).then(function () { done("copied"); }, function () { done("not possible"); });
  }

  /* MDL molfile V2000 of what is on show. */
  function molfile(i) {
    var shape = stage.shape(), pad = function (value, width) { return String(value).padStart(width); };
    if (!shape || !shape.x || shape.z.length > 999 || shape.b.length > 3 * 999) { return null; }
    var lines = ["molecule " + i, "  geomol  " + " ".repeat(10) + "3D", "", pad(shape.z.length, 3) + pad(shape.b.length / 3, 3) + "  0  0  0  0  0  0  0  0999 V2000"];
    shape.z.forEach(function (kind, k) {
      var at = [0, 1, 2].map(function (axis) { return pad((shape.x[3 * k + axis] * data.scale).toFixed(4), 10); });
      lines.push(at.join("") + " " + data.symbols[kind].padEnd(3) + " 0  0  0  0  0  0  0  0  0  0  0  0");
    });
    for (var k = 0; k < shape.b.length; k += 3) {
      lines.push(pad(shape.b[k] + 1, 3) + pad(shape.b[k + 1] + 1, 3) + pad(shape.b[k + 2], 3) + "  0");
    }
    var charges = shape.q || [];
    for (var c = 0; c < charges.length; c += 2) {
      lines.push("M  CHG  1" + pad(charges[c] + 1, 4) + pad(charges[c + 1], 4));
    }
    return lines.concat(["M  END", "$$$$", ""]).join("\n");
  }

  function save(i) {
    var text = molfile(i);
    if (!text) { return; }
    var address = URL.createObjectURL(new Blob([text], { type: "chemical/x-mdl-sdfile" }));
    element("a", { href: address, download: "molecule-" + i + ".sdf" }).click();
    setTimeout(function () { URL.revokeObjectURL(address); }, 1000);
  }

  function open(i) {
    opened = i;
    var molecule = data.molecules[i], place = found.indexOf(i);
    byId("show-title").textContent = "#" + i + " · " + formula(i);
    dialog.querySelector(".place").textContent = place < 0 ? "" : (place + 1).toLocaleString("en") + " of " + found.length.toLocaleString("en");
    dialog.querySelector(".before").disabled = place <= 0;
    dialog.querySelector(".after").disabled = place < 0 || place === found.length - 1;
    var right = dialog.querySelector(".right");
    right.textContent = "";
    right.appendChild(depiction(i));
    verdicts(i).forEach(function (block) { right.appendChild(block); });
    var rows = data.properties.filter(function (column) { return column.values[i] !== null; }).map(function (column) {
      return [column.label, written(column, i)];
    });
    if (rows.length) { right.appendChild(table(["Property", "Value"], rows)); }
    if (molecule.x) {
      var button = element("button", { type: "button", "class": "save" }, "Save what is shown as SDF");
      button.addEventListener("click", function () { save(i); });
      right.appendChild(button);
    }
    if (!dialog.open) { dialog.showModal(); dialog.focus(); }
    stage = stage || window.geomolStage(dialog, data);
    stage.open(scenes(i));
  }

  function step(by) {
    var next = found[found.indexOf(opened) + by];
    if (next !== undefined && found.indexOf(opened) >= 0) { location.hash = "molecule=" + next; }
  }

  function follow() {
    var match = /^#molecule=(\d{1,9})$/.exec(location.hash);
    if (match && Number(match[1]) < data.molecules.length) { open(Number(match[1])); } else if (dialog.open) { dialog.close(); }
  }

  /* ---- events ---- */

  function clear() {
    all(".filters select, .filters input").forEach(function (control) {
      if (control.id !== "protocol") { control.value = control.id === "sort" ? "index" : ""; }
    });
    direction(false);
  }

  function direction(down) {
    descending = down;
    byId("direction").textContent = down ? "↓" : "↑";
    byId("direction").setAttribute("aria-label", "Order: " + (down ? "descending" : "ascending"));
  }

  byId("protocol").addEventListener("change", function () { listFaults(); update(); });
  all(".filters select").forEach(function (select) { if (select.id !== "protocol") { select.addEventListener("change", update); } });
  all(".filters input").forEach(function (input) { input.addEventListener("input", update); });
  byId("direction").addEventListener("click", function () { direction(!descending); update(); });
  byId("clear").addEventListener("click", function () { clear(); update(); });
  all(".faults li").forEach(function (line) {
    line.tabIndex = 0;
    line.setAttribute("role", "button");
    var choose = function () {
      clear();
      byId("protocol").value = line.dataset.protocol;
      listFaults();
      byId("fault").value = line.dataset.fault;
      update();
      byId("molecules").scrollIntoView();
    };
    line.addEventListener("click", choose);
    line.addEventListener("keydown", function (event) { if (event.key === "Enter") { choose(); } });
  });
  dialog.querySelector(".close").addEventListener("click", function () { dialog.close(); });
  dialog.querySelector(".before").addEventListener("click", function () { step(-1); });
  dialog.querySelector(".after").addEventListener("click", function () { step(1); });
  dialog.addEventListener("click", function (event) { if (event.target === dialog) { dialog.close(); } });
  dialog.addEventListener("keydown", function (event) {
    if (/^(INPUT|SELECT)$/.test(event.target.tagName)) { return; }
    if (event.key === "ArrowLeft") { step(-1); }
    if (event.key === "ArrowRight") { step(1); }
  });
  dialog.addEventListener("close", function () {
    if (stage) { stage.close(); }
    opened = -1;
    /* The address loses the molecule without a jump; some browsers forbid this for files. */
    try { history.replaceState(null, "", location.href.split("#")[0]); } catch (error) { location.hash = "molecules"; }
  });
  window.addEventListener("hashchange", follow);

  dialog.tabIndex = -1;
  clear();
  byId("protocol").value = "0";
  listFaults();
  update();
  follow();
})();
