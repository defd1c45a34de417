// Comparing: snapshots of a run along time, two networks side by side, a contact sheet of seeds.

import * as connection from './connection.js';
import { button, choice, draw, make } from './dom.js';
import { change, model, watch } from './model.js';
import { compareWith } from './stage.js';

const STRIP = 8; // snapshots shown at once
const AT_ONCE = 12; // requests of the contact sheet under way
const BATCH = 48; // cells that are added at a time

/** Options for a choice of networks. */
export const networkOptions = () => model.state.networks
  .map((network, index) => [String(index), network.name]).filter((_, index) => !model.state.networks[index].is_removed);

function spread(list, most) {
  if (list.length <= most) return list;
  return Array.from({ length: most }, (_, index) => list[Math.round(index * (list.length - 1) / (most - 1))]);
}

function buildSnapshots(panel) {
  const range = make('input', { type: 'range', id: 'snapshot', min: 0, step: 1, 'aria-label': 'Snapshot' });
  const text = make('output', { for: 'snapshot' });
  const strip = make('div', { className: 'strip', id: 'snapshots' });
  const section = make('section', {}, make('h2', {}, 'Snapshots of the run'), make('div', { className: 'field' }, make('label', { for: 'snapshot' }, 'Time (kimg)'), range, text), strip);
  panel.append(section);
  const snapshots = () => model.state.networks[model.spec.network].snapshots;
  range.addEventListener('input', () => change({ snapshot: snapshots()[range.value] }, false));
  range.addEventListener('change', () => change({ snapshot: snapshots()[range.value] }, true));
  let shown = '';
  const fill = () => {
    const all = model.state.networks.length ? snapshots() : [];
    section.hidden = all.length === 0;
    range.max = Math.max(all.length - 1, 0);
    range.value = model.spec.snapshot === null ? range.max : all.indexOf(model.spec.snapshot);
    text.textContent = model.spec.snapshot ?? (all.length ? `${all[all.length - 1]} (newest)` : '');
  };
  const load = async () => {
    const { snapshot: _, ...spec } = model.spec;
    const now = JSON.stringify([spec, snapshots()]);
    if (section.hidden || panel.hidden || now === shown) return;
    shown = now;
    const cells = spread(snapshots(), STRIP).map((kimg) => {
      const canvas = make('canvas', { width: 16, height: 16 });
      return { kimg, canvas, element: button('', () => change({ snapshot: kimg }), { 'aria-label': `Snapshot after ${kimg} kimg` }) };
    });
    strip.replaceChildren(...cells.map(({ kimg, canvas, element }) => { element.append(canvas, make('span', {}, `${kimg} kimg`)); return element; }));
    await Promise.all(cells.map(async ({ kimg, canvas }, index) => {
      const result = await connection.picture(`snapshot-${index}`, { ...model.spec, snapshot: kimg }, { format: 'webp', max_side: 128 });
      if (result && result.blob) await draw(canvas, result.blob);
    }));
  };
  watch('network', fill);
  watch('spec', (isFinal) => { fill(); if (isFinal) load(); });
  panel.addEventListener('shown', load);
}

function buildPair(panel) {
  const chosen = { network: '', snapshot: null };
  const network = choice('Beside it', [], '', (value) => { chosen.network = value; chosen.snapshot = null; fill(); show(); }, 'other-network');
  const snapshot = choice('Snapshot', [], '', (value) => { chosen.snapshot = value === '' ? null : Number(value); show(); }, 'other-snapshot');
  panel.append(make('section', {}, make('h2', {}, 'Two networks side by side'), make('p', { className: 'hint' }, 'Both show the same seed with the same settings.'), network, snapshot));
  const fill = () => {
    network.options([['', 'nothing'], ...networkOptions()]);
    network.set(chosen.network);
    const all = chosen.network === '' ? [] : model.state.networks[Number(chosen.network)].snapshots;
    snapshot.hidden = all.length === 0;
    snapshot.options([['', 'newest'], ...all.map((kimg) => [String(kimg), `${kimg} kimg`]).reverse()]);
    snapshot.set(chosen.snapshot === null ? '' : String(chosen.snapshot));
  };
  const show = () => compareWith(chosen.network === '' ? null : { network: Number(chosen.network), snapshot: chosen.snapshot });
  watch('network', fill);
}

function buildSheet(panel) {
  const sheet = make('div', { className: 'sheet', id: 'sheet', tabIndex: 0, 'aria-label': 'Contact sheet of seeds' });
  panel.append(make('section', {}, make('h2', {}, 'Contact sheet'),
    make('p', { className: 'hint' }, 'Seeds from 0 on, with the settings of the picture; more appear while you scroll.'), sheet));
  let cells = [], queue = [], underway = 0, generation = 0, shown = '';
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const cell = cells[entry.target.dataset.seed];
      if (!cell) continue;
      cell.isVisible = entry.isIntersecting;
      if (cell.isVisible && !cell.isLoaded && !queue.includes(cell)) queue.push(cell);
      if (cell.isVisible && cell.seed >= cells.length - BATCH / 2) extend();
    }
    pump();
  }, { root: sheet, rootMargin: '120px' });
  const extend = () => {
    for (let added = 0; added < BATCH; added++) {
      const seed = cells.length;
      const canvas = make('canvas', { width: 16, height: 16 });
      const element = button('', () => change({ seed, x: 0, y: 0, kept: null }), { 'aria-label': `Seed ${seed}`, 'data-seed': seed });
      element.append(canvas, make('span', {}, String(seed)));
      cells.push({ seed, canvas, element });
      sheet.append(element);
      watcher.observe(element);
    }
  };
  const pump = () => {
    while (underway < AT_ONCE && queue.length) {
      const cell = queue.shift();
      if (cell.isVisible && !cell.isLoaded) loadCell(cell, generation);
    }
  };
  const slots = Array.from({ length: AT_ONCE }, (_, index) => index);
  const loadCell = async (cell, started) => {
    underway++;
    const slot = slots.pop();
    const spec = { ...model.spec, seed: cell.seed, x: 0, y: 0, kept: null };
    const result = await connection.picture(`sheet-${slot}`, spec, { format: 'webp', max_side: 128 });
    slots.push(slot);
    underway--;
    if (result && result.blob && started === generation) {
      cell.isLoaded = true;
      await draw(cell.canvas, result.blob);
      cell.element.dataset.loaded = 'yes';
    }
    pump();
  };
  const restart = () => {
    const { seed: _s, x: _x, y: _y, kept: _k, ...spec } = model.spec;
    const now = JSON.stringify(spec);
    if (panel.hidden || now === shown) return;
    shown = now;
    generation++;
    watcher.disconnect();
    [cells, queue] = [[], []];
    sheet.replaceChildren();
    extend();
  };
  watch('spec', (isFinal) => isFinal && restart());
  panel.addEventListener('shown', restart);
  connection.on('open', () => { shown = ''; });
}

/** Fill the panel. */
export function buildCompare(panel) {
  buildSnapshots(panel);
  buildPair(panel);
  buildSheet(panel);
}
