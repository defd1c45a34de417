// Looking inside: what the layers compute for the picture.

import * as connection from './connection.js';
import { button, choice, draw, format, make, plot } from './dom.js';
import { model, watch } from './model.js';
import { showProblem } from './stage.js';

/** Fill the panel. */
export function buildInside(panel) {
  const wanted = { layer: '', show: 'channels', first: 0 };
  const canvas = make('canvas', { className: 'wide', id: 'inside-picture', width: 16, height: 16, role: 'img', 'aria-label': 'What the layer computes' });
  const facts = make('p', { className: 'hint', id: 'inside-facts' });
  const plots = make('div');
  const layer = choice('Layer', [], '', (value) => { wanted.layer = value; wanted.first = 0; load(); }, 'layer');
  const show = choice('Show', [['channels', 'channels'], ['colors', 'main directions as colors (PCA)'], ['spectrum', 'spectrum']], wanted.show, (value) => { wanted.show = value; load(); }, 'inside-show');
  const more = button('Next channels', () => { wanted.first += 64; load(); });
  panel.append(make('div', { className: 'row' }, layer, show, more), canvas, facts, plots);

  async function load() {
    if (panel.hidden || !model.info || model.info.problem) return;
    const result = await connection.picture('inside', model.spec, { look: { ...wanted } });
    if (!result) return;
    if (!result.blob) return showProblem(result.header.error);
    await draw(canvas, result.blob);
    const { shape, first, histogram, radial } = result.header;
    wanted.first = wanted.first >= shape[0] ? 0 : first;
    more.hidden = wanted.show !== 'channels' || shape[0] <= 64;
    canvas.dataset.layer = wanted.layer;
    canvas.dataset.show = wanted.show;
    facts.textContent = `${shape[0]} channels of ${shape[2]}×${shape[1]}; mean ${format(histogram.mean)}, standard deviation ${format(histogram.deviation)}`
      + (more.hidden ? '' : `; channels ${first} to ${Math.min(first + 64, shape[0]) - 1}`);
    plots.replaceChildren(
      make('h2', {}, 'Histogram of the values'), plot(histogram.counts, 'Values', { bars: true, low: histogram.low, high: histogram.high }),
      make('h2', {}, 'Spectrum over frequency'), plot(radial, 'Power (dB), from low to high frequency'));
  }

  watch('info', () => {
    if (model.info.problem) return;
    layer.options(model.info.layers.map((name) => [name, name]));
    if (!model.info.layers.includes(wanted.layer)) wanted.layer = model.info.layers[Math.max(model.info.layers.length - 4, 0)];
    layer.set(wanted.layer);
    load();
  });
  watch('spec', (isFinal) => isFinal && load());
  panel.addEventListener('shown', load);
}
