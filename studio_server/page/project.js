// Projection: drop a photograph, and watch it being found.

import { upload } from './connection.js';
import { button, choice, make, number } from './dom.js';
import { model } from './model.js';
import { startJob } from './results.js';
import { attempt } from './shelf.js';

/** Fill the panel. */
export function buildProject(panel) {
  const settings = { steps: 300, space: 'w', seed: 303, lr: 0.1 };
  const preview = make('img', { className: 'wide', alt: 'The photograph', hidden: true });
  const file = make('input', { type: 'file', accept: 'image/*', id: 'photograph', 'aria-label': 'Photograph' });
  const drop = make('div', { className: 'drop', id: 'drop' }, make('p', {}, 'Drop a photograph here, or choose one:'), file, preview);
  let taken = null;
  const take = async (photograph) => {
    if (!photograph) return;
    start.disabled = true;
    ({ upload: taken } = await upload(photograph));
    if (preview.src) URL.revokeObjectURL(preview.src);
    Object.assign(preview, { src: URL.createObjectURL(photograph), hidden: false });
    start.disabled = false;
  };
  file.addEventListener('change', () => attempt(() => take(file.files[0]))());
  for (const name of ['dragover', 'dragleave', 'drop']) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.toggle('over', name === 'dragover'); });
  }
  drop.addEventListener('drop', (event) => attempt(() => take(event.dataTransfer.files[0]))());
  const start = button('Find it', attempt(() => startJob('project', { upload: taken, spec: { network: model.spec.network, snapshot: model.spec.snapshot, class: model.spec.class, label: model.spec.label }, ...settings })),
    { className: 'main', id: 'project', disabled: true });
  panel.append(make('h2', {}, 'Find a photograph'),
    make('p', { className: 'hint' }, 'It is rotated, cropped to the middle and scaled as projector.py does. The class is that of the picture. Its progress appears among the jobs.'),
    drop,
    make('div', { className: 'row' },
      number('Steps', { min: 1, max: 100000, value: settings.steps, id: 'steps' }, (value) => { settings.steps = value; }),
      number('Seed', { min: 0, value: settings.seed, id: 'projection-seed' }, (value) => { settings.seed = value; }),
      number('Learning rate', { min: 0.001, max: 100, step: 'any', value: settings.lr, id: 'projection-lr' }, (value) => { settings.lr = value; })),
    choice('Space', [['w', 'w: one vector, easy to edit'], ['w+', 'w+: one for each layer, closer']], settings.space, (value) => { settings.space = value; }, 'space'),
    start);
}
