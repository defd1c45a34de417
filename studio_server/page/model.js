// What the page shows: the description of the picture, the networks, the shelf, and what can be undone.

import { act, read } from './connection.js';

export const START = {
  network: 0, snapshot: null, seed: 0, x: 0, y: 0, kept: null, class: null, label: null, psi: 1, cutoff: null,
  center: 'global', mix: [], edits: [], noise_mode: 'const', noise_seed: null, noise_strength: 1, shift: [0, 0], rotation: 0,
};
const STORE = 'studio-picture';

export const model = {
  spec: { ...START },
  state: { networks: [], shelf: [], jobs: [], directions: [] },
  info: null, // of the network
  past: [], future: [], // {undo, redo}
};
const listeners = { spec: [], info: [], shelf: [], undo: [], network: [] };
let committed = JSON.stringify(model.spec);

/** Call a function when something changes: 'spec' (with isFinal), 'network', 'info', 'shelf' or 'undo'. */
export function watch(event, listener) {
  listeners[event].push(listener);
}

function tell(event, ...args) {
  for (const listener of listeners[event]) listener(...args);
}

/** Change the description of the picture. While something is dragged, `isFinal` is false. */
export function change(values, isFinal = true) {
  const before = model.spec;
  model.spec = { ...model.spec, ...values };
  if (isFinal) commit();
  if (before.network !== model.spec.network || before.snapshot !== model.spec.snapshot) describe();
  tell('spec', isFinal);
}

function commit() {
  const now = JSON.stringify(model.spec);
  if (now === committed) return;
  const before = committed;
  committed = now;
  sessionStorage.setItem(STORE, now);
  remember({ undo: () => show(before), redo: () => show(now) });
}

function show(text) {
  committed = text;
  sessionStorage.setItem(STORE, text);
  const before = model.spec;
  model.spec = JSON.parse(text);
  if (before.network !== model.spec.network || before.snapshot !== model.spec.snapshot) describe();
  tell('spec', true);
}

/** Remember how to undo and redo something. */
export function remember(step) {
  model.past.push(step);
  if (model.past.length > 500) model.past.shift();
  model.future = [];
  tell('undo');
}

/** Undo or redo the last step. */
export async function undo(isRedo = false) {
  const [from, to] = isRedo ? [model.future, model.past] : [model.past, model.future];
  const step = from.pop();
  if (!step) return;
  to.push(step);
  await (isRedo ? step.redo() : step.undo());
  tell('undo');
}

/** Read what the server knows: at the start, and when it has come back. */
export async function load() {
  model.state = await read('state');
  const stored = sessionStorage.getItem(STORE);
  if (stored) model.spec = { ...START, ...JSON.parse(stored) };
  if (model.spec.network >= model.state.networks.length) model.spec = { ...START };
  const files = new Set(model.state.directions.map((entry) => entry.file));
  model.spec.edits = model.spec.edits.filter((edit) => files.has(edit.file));
  if (model.spec.kept && !model.state.shelf.some((entry) => entry.id === model.spec.kept)) model.spec.kept = null;
  committed = JSON.stringify(model.spec);
  tell('network');
  tell('shelf');
  await describe();
  tell('spec', true);
}

/** Read the shelf again. */
export async function loadShelf() {
  model.state = await read('state');
  tell('network');
  tell('shelf');
}

/** Ask what the network is like. */
async function describe() {
  const { network, snapshot } = model.spec;
  try {
    const info = await act('describe', { spec: { network, snapshot } });
    if (network !== model.spec.network || snapshot !== model.spec.snapshot) return;
    model.info = info;
    fit(info);
  } catch (error) {
    model.info = { problem: error.message };
  }
  tell('info');
}

/** Leave out what the network does not have. */
function fit(info) {
  const spec = model.spec;
  if (!info.has_transform) Object.assign(spec, { shift: [0, 0], rotation: 0 });
  if (spec.cutoff !== null && spec.cutoff > info.num_ws) spec.cutoff = null;
  if (info.c_dim === 0) Object.assign(spec, { class: null, label: null });
  else if (spec.label && spec.label.length !== info.c_dim) spec.label = null;
  if (info.c_dim > 0 && spec.class === null && spec.label === null) spec.class = '#0';
}

/** The command line of the picture. */
export const command = async () => (await act('describe', { spec: model.spec })).command;
