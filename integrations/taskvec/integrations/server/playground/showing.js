"use strict";
// Heat maps and tables. Texts are put in as text alone, never as markup.

const STEPS = 4;  // between the five colours of the ramp, --ramp-0 to --ramp-4
const DEEP = 0.71;  // from here on a text on the ramp is white, in the dark it is black from 1 - DEEP
const MOST_RANKS = 200;
const MOST_HEADS = 8;  // columns that have their text above them
const MOST_CHARACTERS = 300;  // of a text where it is shown: long ones, many times over, stop a browser
const TIE = 1e-5;  // cosines this near are equal: the same text is not the same to the last bit

/** An element with properties and children, of which strings become text. */
function el(tag, properties = {}, ...children) {
  const { aria = {}, ...own } = properties;
  const made = Object.assign(document.createElement(tag), own);
  for (const [name, value] of Object.entries(aria)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A text in its own direction, which it keeps to itself. */
const words = (text) => el("span", { dir: "auto" }, text);

const named = (texts, letter) => texts.map((text, index) => ({ id: `${letter}${index + 1}`, text: brief(text) }));
const brief = (text) => (text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS).replace(/[\ud800-\udbff]$/, "")} …` : text);
const fixed = (value, digits) => (Number(value.toFixed(digits)) + 0).toFixed(digits).replace("-", "−");
const counted = (number) => number.toLocaleString("en");
const plural = (number, word) => `${counted(number)} ${word}${number === 1 ? "" : word.endsWith("y") ? "" : "s"}`;

/** {low, high} of all maps' values, in tenths: a text with itself is left out. */
function scaleOf(maps) {
  const values = maps.flatMap(({ values, same }) =>
    values.flatMap((row, i) => row.filter((_, j) => !(same && i === j))));
  if (!values.length) return { low: 0, high: 1 };
  const low = Math.max(-1, Math.floor(Math.min(...values) * 10) / 10);
  const high = Math.min(1, Math.ceil(Math.max(...values) * 10) / 10);
  return high > low ? { low, high } : { low: low - 0.1, high };
}

/** Give an element the ramp's colour at a share from 0 to 1; light and dark are the style's. */
function paint(element, share) {
  const place = Math.min(Math.max(share, 0), 1) * STEPS;
  const step = Math.min(Math.floor(place), STEPS - 1);
  const percent = ((place - step) * 100).toFixed(1);
  element.style.backgroundColor = `color-mix(in oklab, var(--ramp-${step + 1}) ${percent}%, var(--ramp-${step}))`;
  element.classList.toggle("deep", share > DEEP);
  element.classList.toggle("bright", share > 1 - DEEP);
}

/** The column of each row's highest value, a text with itself left out; -1 where there is no choice. */
function nearest(values, same) {
  return values.map((row, i) => {
    const others = row.map((_, j) => j).filter((j) => !(same && i === j));
    return others.length < 2 ? -1 : others.reduce((best, j) => (row[j] > row[best] + TIE ? j : best));
  });
}

/** One map as a figure. map: {title, badge, note, rows, columns, values, same}. */
function mapFigure(map, scale, onPoint) {
  const { rows, columns, values, same } = map;
  const best = nearest(values, same);
  const wordy = columns.length <= MOST_HEADS;
  const head = el("tr", {}, el("td"), ...columns.map(({ id, text }) =>
    el("th", { scope: "col", title: text }, el("b", {}, id), ...(wordy ? [words(text)] : []))));
  const body = rows.map(({ id, text }, i) =>
    el("tr", {}, el("th", { scope: "row", title: text }, el("b", {}, id), words(text)),
      ...columns.map((column, j) => {
        const value = values[i][j];
        const label = `${id} with ${column.id}: ${fixed(value, 3)}${best[i] === j ? ", nearest" : ""}`;
        const cell = el("td", { tabIndex: i || j ? -1 : 0, aria: { role: "gridcell", "aria-label": label } }, fixed(value, 2));
        Object.assign(cell.dataset, { row: i, column: j, value });
        if (same && i === j) cell.classList.add("self");
        else paint(cell, (value - scale.low) / (scale.high - scale.low));
        cell.classList.toggle("best", best[i] === j);
        return cell;
      })));
  const table = el("table", { className: "map", aria: { role: "grid", "aria-label": `Cosine similarity, ${map.title}` } },
    el("thead", {}, head), el("tbody", {}, ...body));
  table.classList.toggle("wordy", wordy);
  for (const kind of ["mouseover", "focusin"]) {
    table.addEventListener(kind, ({ target }) => {
      const cell = target.closest("td[data-row]");
      if (cell) onPoint(Number(cell.dataset.row), Number(cell.dataset.column));
    });
  }
  table.addEventListener("keydown", moveInGrid);
  const badge = map.badge ? [el("b", { className: `badge ${map.badge.toLowerCase()}` }, map.badge), " "] : [];
  return el("figure", {}, el("figcaption", {}, ...badge, map.title, ...(map.note ? [el("small", {}, map.note)] : [])),
    el("div", { className: "scroll" }, table));
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Arrow keys move through the cells of a map, of which one is in the order of tabs. */
function moveInGrid(event) {
  const [down, right] = MOVES[event.key] ?? [];
  const from = event.target.closest("td[data-row]");
  if (down === undefined || !from) return;
  event.preventDefault();
  const [row, column] = [Number(from.dataset.row) + down, Number(from.dataset.column) + right];
  const to = event.currentTarget.querySelector(`[data-row="${row}"][data-column="${column}"]`);
  if (!to) return;
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

/** Ranks of the same pairs under two maps, equal ones' the same: groups of {i, j, a, b, rankA, rankB}, in A's order. */
function ranksOf(a, b) {
  const groups = a.same
    ? [a.rows.flatMap((_, i) => a.columns.map((_, j) => ({ i, j })).slice(i + 1))]
    : a.rows.map((_, i) => a.columns.map((_, j) => ({ i, j })));
  return groups.map((pairs) => {
    for (const pair of pairs) {
      pair.a = a.values[pair.i][pair.j];
      pair.b = b.values[pair.i][pair.j];
    }
    for (const side of ["b", "a"]) {
      pairs.sort((one, other) => other[side] - one[side]);
      const rank = `rank${side.toUpperCase()}`;
      pairs.forEach((pair, index) => {
        const before = pairs[index - 1];
        pair[rank] = before && before[side] - pair[side] < TIE ? before[rank] : index + 1;
      });
    }
    return pairs;
  });
}

/** Fill the table of ranks, and return what it shows in a sentence. */
function showRanks(table, a, b, onPoint) {
  const groups = ranksOf(a, b);
  const pairs = groups.flat();
  const shown = pairs.slice(0, MOST_RANKS);
  const row = ({ i, j, ...pair }) => {
    const up = pair.rankA - pair.rankB;
    const move = up ? `${up > 0 ? "▲" : "▼"} ${Math.abs(up)}` : "=";
    const spoken = up ? `${up > 0 ? "up" : "down"} ${Math.abs(up)} in B` : "the same";
    const made = el("tr", {},
      el("th", { scope: "row" }, ...(a.same ? [labelled(a.rows[i])] : []), labelled(a.columns[j])),
      el("td", {}, fixed(pair.a, 3)), el("td", {}, `${pair.rankA}`),
      el("td", {}, fixed(pair.b, 3)), el("td", {}, `${pair.rankB}`),
      el("td", { className: up > 0 ? "up" : up < 0 ? "down" : "", aria: { "aria-label": spoken } }, move));
    made.addEventListener("mouseover", () => onPoint(i, j));
    return made;
  };
  const heads = ["Pair", "A", "rank", "B", "rank", "move"].map((name) => el("th", { scope: "col" }, name));
  const group = (i) => el("tr", { className: "group" }, el("th", { colSpan: heads.length, scope: "rowgroup" }, labelled(a.rows[i])));
  const rows = shown.flatMap((pair, index) => (!a.same && pair.i !== shown[index - 1]?.i ? [group(pair.i), row(pair)] : [row(pair)]));
  table.replaceChildren(el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
  return sentence(groups, pairs, shown, a.same);
}

const labelled = ({ id, text }) => el("span", { className: "pair", title: text }, el("b", {}, id), words(text));

function sentence(groups, pairs, shown, same) {
  const moved = pairs.filter((pair) => pair.rankA !== pair.rankB).length;
  const rest = shown.length < pairs.length ? ` The first ${shown.length} are shown.` : "";
  if (same) return `${counted(moved)} of ${plural(pairs.length, "pair")} have another rank in B.${rest}`;
  const turned = groups.filter((group) => !group.some(({ rankA, rankB }) => rankA === 1 && rankB === 1)).length;
  return `Ranks are among the passages of a query. Another passage comes first in B for ${counted(turned)} of ${
    groups.length === 1 ? "1 query" : `${counted(groups.length)} queries`}; ${counted(moved)} of ${plural(pairs.length, "rank")} differ.${rest}`;
}

/** Fill the table of tokens. sides: [{texts, counts: [of A, of B]}]; totals: of A, of B. */
function showTokens(table, sides, totals) {
  const columns = totals.length > 1 ? ["A", "B"] : ["tokens"];
  const heads = ["Text", ...columns].map((name) => el("th", { scope: "col" }, name));
  const inAll = "counted in all, as one document";
  const cell = (count) => (count === null ? el("td", { title: inAll, aria: { "aria-label": inAll } }, "–") : el("td", {}, counted(count)));
  const rows = sides.flatMap(({ texts, counts }) => texts.map(({ id, text }, index) =>
    el("tr", {}, el("th", { scope: "row" }, el("b", {}, id), words(text)), ...counts.map((own) => cell(own[index])))));
  const last = el("tr", {}, el("th", { scope: "row" }, "All"), ...totals.map((total) => el("td", {}, counted(total))));
  table.replaceChildren(el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows), el("tfoot", {}, last));
}
