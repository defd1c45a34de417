// Editing: directions, found on the spot or by edit.py, with a slider each; blends of two networks.

import { networkOptions } from './compare.js';
import { act } from './connection.js';
import { button, choice, layerButtons, make, number, slider } from './dom.js';
import { change, model, rememberMade, watch } from './model.js';
import { buildDrag } from './drag.js';
import { startJob } from './results.js';
import { attempt } from './shelf.js';

const SHOWN = 100; // directions of a file

/** Fill the panel. */
export function buildEdit(panel) {
  buildDirections(panel);
  buildDrag(panel);
  buildBlend(panel);
}

function buildDirections(panel) {
  const wanted = { method: 'pca', count: 10 };
  const list = make('div', { id: 'directions' });
  let opened = '';
  const file = choice('File', [], '', (value) => open(value), 'direction-file');
  const find = button('Find directions', attempt(async () => {
    const { file: found } = await act('find-directions', { spec: model.spec, ...wanted });
    opened = found;
    rememberMade('directions', found);
  }), { id: 'find-directions', className: 'main' });
  panel.append(
    make('h2', {}, 'Directions'),
    make('p', { className: 'hint' }, 'A step of 1 is one standard deviation of w. What is found here is a file in the folder of the shelf, which --direction of generate.py reads.'),
    make('div', { className: 'row' },
      choice('Found by', [['pca', 'principal components (GANSpace)'], ['sefa', 'factorizing the layers (SeFa)']], wanted.method, (value) => { wanted.method = value; }, 'direction-method'),
      number('How many', { min: 1, max: 100, value: wanted.count, id: 'direction-count' }, (value) => { wanted.count = value; }), find),
    file, list, button('All to 0', () => change({ edits: [] }), { id: 'no-edits' }));

  const editOf = (name) => model.spec.edits.find((edit) => edit.file === opened && edit.name === name);
  const set = (name, values, isFinal = true) => {
    const edit = { file: opened, name, strength: 0, layers: null, ...editOf(name), ...values };
    const others = model.spec.edits.filter((other) => other.file !== opened || other.name !== name);
    change({ edits: edit.strength === 0 && isFinal ? others : [...others, edit] }, isFinal);
  };
  const rows = new Map();
  const open = async (chosen) => {
    opened = chosen;
    rows.clear();
    list.replaceChildren();
    if (!chosen || !model.info || model.info.problem) return;
    let found;
    try {
      found = (await act('open-directions', { spec: model.spec, file: chosen })).directions;
    } catch (error) {
      list.replaceChildren(make('p', { className: 'problem' }, error.message));
      return;
    }
    if (opened !== chosen) return;
    list.replaceChildren(...found.slice(0, SHOWN).map(({ name, layers }) => {
      const row = slider(name, { min: -5, max: 5, step: 0.05, value: 0, soft: true, id: `direction-${name}` }, (strength, isFinal) => set(name, { strength }, isFinal));
      rows.set(name, row);
      const buttons = make('div');
      const details = make('details', { ontoggle: () => {
        if (details.open && !buttons.childElementCount) buttons.append(layerButtons(model.info.num_ws, (editOf(name) || {}).layers || layers, (chosen) => editOf(name) && set(name, { layers: chosen })));
      } }, make('summary', {}, `Layers of ${name}`), buttons);
      return make('div', {}, row, details);
    }));
    follow();
  };
  const follow = () => { for (const [name, row] of rows) row.set((editOf(name) || { strength: 0 }).strength); };
  watch('spec', follow);
  watch('shelf', () => {
    const files = model.state.directions;
    file.options([['', files.length ? 'choose a file' : 'none yet'], ...files.map((entry) => [entry.file, entry.name])]);
    file.set(opened);
    if (opened && !files.some((entry) => entry.file === opened)) open(''); // it was removed
    else if (opened && !rows.size) open(opened);
  });
  watch('info', () => open(opened));
}

function buildBlend(panel) {
  const wanted = { network: '', from: 16, seam: 0, mapping: 'first' };
  const other = choice('Fine layers of', [], '', (value) => { wanted.network = value; }, 'blend-with');
  panel.append(
    make('h2', {}, 'Blend two networks'),
    make('p', { className: 'hint' }, 'The coarse layers of the network that is shown, the fine ones of another that was trained from it (or it from that). The result is a network file, which appears among the networks.'),
    other,
    make('div', { className: 'row' },
      number('From resolution', { min: 4, max: 4096, value: wanted.from, id: 'blend-from' }, (value) => { wanted.from = value; }),
      number('Width of the seam', { min: 0, max: 10, value: wanted.seam, id: 'blend-seam' }, (value) => { wanted.seam = value; })),
    choice('Mapping network of', [['first', 'the coarse one'], ['second', 'the fine one']], wanted.mapping, (value) => { wanted.mapping = value; }, 'blend-mapping'),
    button('Blend', attempt(() => {
      if (wanted.network === '') throw new Error('Choose the network of the fine layers first.');
      return startJob('blend', { spec: { network: model.spec.network, snapshot: model.spec.snapshot }, other: { network: Number(wanted.network) }, from: wanted.from, seam: wanted.seam, mapping: wanted.mapping });
    }), { id: 'blend', className: 'main' }));
  watch('network', () => { other.options([['', 'choose a network'], ...networkOptions()]); other.set(wanted.network); });
}
