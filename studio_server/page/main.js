// Starts the page: tabs, the choice of a network, the connection.

import { buildCompare, networkOptions } from './compare.js';
import * as connection from './connection.js';
import { choice, make } from './dom.js';
import { buildEdit } from './edit.js';
import { buildInside } from './inside.js';
import { buildJobs } from './jobs.js';
import { buildLatents } from './latents.js';
import { change, load, model, undo, watch } from './model.js';
import { buildProject } from './project.js';
import { buildShelf } from './shelf.js';
import { buildStage, request, showProblem } from './stage.js';
import { buildTrain } from './train.js';

const PANELS = [
  ['latents', 'Latents', buildLatents], ['shelf', 'Shelf', buildShelf], ['compare', 'Compare', buildCompare],
  ['edit', 'Edit', buildEdit], ['inside', 'Inside', buildInside], ['project', 'Project', buildProject], ['train', 'Train', buildTrain],
];
const byId = (id) => document.getElementById(id);

function buildTabs() {
  const tabs = PANELS.map(([id, title, build], index) => {
    const panel = make('div', { id: `panel-${id}`, role: 'tabpanel', hidden: index > 0, 'aria-labelledby': `tab-${id}` });
    const tab = make('button', { type: 'button', id: `tab-${id}`, role: 'tab', 'aria-controls': panel.id, onclick: () => select(tab) }, title);
    byId('tabs').append(tab);
    byId('panels').append(panel);
    build(panel);
    return { tab, panel };
  });
  const select = (chosen) => {
    for (const { tab, panel } of tabs) {
      tab.setAttribute('aria-selected', tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      const wasHidden = panel.hidden;
      panel.hidden = tab !== chosen;
      if (wasHidden && !panel.hidden) panel.dispatchEvent(new Event('shown'));
    }
  };
  byId('tabs').addEventListener('keydown', (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const at = tabs.findIndex(({ tab }) => tab === document.activeElement);
    const next = tabs[(at + by + tabs.length) % tabs.length].tab;
    next.focus();
    select(next);
  });
  select(tabs[0].tab);
}

function buildHeader() {
  const network = choice('Network', [], '0', (value) => change({ network: Number(value), snapshot: null, kept: null, edits: [] }), 'network');
  byId('network-bar').append(network);
  watch('network', () => { network.options(networkOptions()); network.set(String(model.spec.network)); });
  watch('spec', () => network.set(String(model.spec.network)));
  for (const [id, isRedo] of [['undo', false], ['redo', true]]) {
    byId(id).addEventListener('click', () => undo(isRedo).catch((error) => showProblem(error.message)));
  }
  watch('undo', () => {
    byId('undo').disabled = model.past.length === 0;
    byId('redo').disabled = model.future.length === 0;
  });
  addEventListener('keydown', (event) => {
    const isRedo = event.key.toLowerCase() === 'y' || event.shiftKey;
    if (!(event.ctrlKey || event.metaKey) || !['y', 'z'].includes(event.key.toLowerCase())) return;
    if (['TEXTAREA'].includes(event.target.tagName) || event.target.type === 'text') return;
    event.preventDefault();
    undo(isRedo).catch((error) => showProblem(error.message));
  });
}

buildHeader();
buildStage(byId('stage'));
buildTabs();
buildJobs(byId('work'));

connection.on('open', async () => {
  try {
    await load();
    byId('connection').textContent = 'connected';
    byId('connection').classList.add('open');
    byId('banner').hidden = true;
  } catch (error) {
    showProblem(error.message);
  }
});
connection.on('closed', (reason) => {
  byId('connection').textContent = 'no answer';
  byId('connection').classList.remove('open');
  byId('banner').textContent = reason || 'The server does not answer. Start studio.py again: this page will take up where it was, with its shelf.';
  byId('banner').hidden = false;
});
connection.connect();
window.studioModel = model; // for looking at it in the console
