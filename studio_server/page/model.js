// What the page shows: the description of the picture, the networks, the shelf, and what can be undone.

import { act, read, Refused } from './connection.js';

export const START = {
  network: 0, snapshot: null, seed: 0, x: 0, y: 0, kept: null, class: null, label: null, psi: 1, cutoff: null,
  center: 'global', mix: [], edits: [], noise_mode: 'const', noise_seed: null, noise_strength: 1, shift: [0, 0], rotation: 0,
};
const STORE = 'studio-picture';
const MAX_STEPS = 500;

export const model = {
  spec: { ...START },
  state: { start: '', networks: [], shelf: [], jobs: [], directions: [], removed: [] },
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

/** Remember how to undo and redo something. What a job has made at its own time leaves what can be redone as it is. */
export function remember(step, isOfJob = false) {
  model.past.push(step);
  if (model.past.length > MAX_STEPS) model.past.shift();
  if (!isOfJob) model.future = [];
  tell('undo');
}

/** Remember that the server has made something, which can be removed and brought back. */
export function rememberMade(folder, number, isOfJob = false) {
  const what = { folder, number };
  remember({ undo: () => act('remove', what), redo: () => act('restore', what) }, isOfJob);
}

/** Make one step of all that is remembered while something is done. */
export async function asOneStep(work) {
  const before = new Set(model.past);
  const result = await work();
  const steps = model.past.filter((step) => !before.has(step));
  if (steps.length > 1) {
    model.past = model.past.filter((step) => before.has(step));
    remember({
      undo: async () => { for (const step of [...steps].reverse()) await step.undo(); },
      redo: async () => { for (const step of steps) await step.redo(); },
    });
  }
  return result;
}

let undoing = Promise.resolve();

/** Undo or redo the last step, after those that are being undone already. */
export function undo(isRedo = false) {
  undoing = undoing.catch(() => {}).then(async () => {
    const from = isRedo ? model.future : model.past, to = isRedo ? model.past : model.future;
    const step = from.pop();
    if (!step) return;
    try {
      await (isRedo ? step.redo() : step.undo());
      to.push(step);
    } catch (error) {
      if (!(error instanceof Refused)) from.push(step); // the server was not there: the step can be tried again
      throw error;
    } finally {
      tell('undo');
    }
  });
  return undoing;
}

/** Read what the server knows: at the start, and when it has come back. */
export async function load() {
  model.state = await read('state');
  const stored = sessionStorage.getItem(STORE);
  if (stored) model.spec = { ...START, ...JSON.parse(stored) };
  if (!model.state.networks[model.spec.network] || model.state.networks[model.spec.network].is_removed) model.spec = { ...START };
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
  const wasRemoved = isRemoved();
  model.state = await read('state');
  tell('network');
  tell('shelf');
  if (isRemoved() !== wasRemoved) {
    await describe();
    tell('spec', true);
  }
}

const isRemoved = () => Boolean(model.state.networks[model.spec.network]?.is_removed);

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
