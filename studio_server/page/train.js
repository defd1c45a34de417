// A training run in progress, from its files.

import { read } from './connection.js';
import { make } from './dom.js';
import { model, watch } from './model.js';

const EVERY_MS = 5000;

/** Fill the panel. */
export function buildTrain(panel) {
  const none = make('p', { className: 'hint' }, 'The chosen network is a file. Name the directory of a training run (--network=RUN) to see it here.');
  const name = make('h2'), facts = make('dl', { className: 'facts', id: 'run-facts' });
  const bar = make('progress', { max: 1, value: 0, 'aria-label': 'Progress of the training' });
  const range = make('input', { type: 'range', id: 'fakes-time', min: 0, step: 1, 'aria-label': 'Time of the images' });
  const caption = make('figcaption');
  const fakes = make('img', { className: 'wide', id: 'fakes', alt: 'Generated images' });
  const host = make('div', { id: 'charts' });
  const shadow = host.attachShadow({ mode: 'open' });
  const charts = make('div');
  shadow.append(make('link', { rel: 'stylesheet', href: 'report.css' }), charts);
  const problems = make('ul');
  const body = make('div', {}, name, bar, facts, make('figure', { className: 'card' }, fakes, range, caption), host, problems);
  panel.append(none, body);
  let times = [], isAtEnd = true, timer = 0, loads = 0, shown = '';

  const showFakes = () => {
    const kimg = times[range.value];
    const source = kimg === undefined ? '' : `runs/${model.spec.network}/${kimg}.webp`;
    if (source && fakes.getAttribute('src') !== source) fakes.src = source;
    caption.textContent = kimg === undefined ? 'no images yet' : `after ${kimg} kimg`;
  };
  range.addEventListener('input', () => { isAtEnd = Number(range.value) === times.length - 1; showFakes(); });

  const load = async () => {
    clearTimeout(timer);
    const network = model.state.networks[model.spec.network];
    const isRun = Boolean(network && network.is_run);
    none.hidden = isRun;
    body.hidden = !isRun;
    if (panel.hidden || !isRun) return;
    const number = ++loads;
    let run;
    try {
      run = await read(`runs/${model.spec.network}`);
    } catch (error) {
      problems.replaceChildren(make('li', {}, error.message));
    }
    if (number !== loads) return; // another network was chosen
    timer = setTimeout(load, EVERY_MS);
    if (!run) return;
    name.textContent = run.name;
    bar.value = run.kimg && run.total_kimg ? run.kimg / run.total_kimg : 0;
    const rows = [
      ['images shown', run.kimg === null ? 'none yet' : `${run.kimg.toFixed(1)} of ${run.total_kimg ?? '?'} thousand`],
      ['time left', run.time_left || 'not known yet'],
      ['augmentation', run.augment === null ? 'none' : `p = ${run.augment.toFixed(3)}`],
      ['last news', run.is_silent ? `${Math.round(run.silent_sec / 60)} minutes ago: it has probably ended` : `${Math.round(run.silent_sec)} s ago`],
    ];
    facts.replaceChildren(...rows.flatMap(([term, text]) => [make('dt', {}, term), make('dd', {}, text)]));
    times = run.fakes;
    range.max = Math.max(times.length - 1, 0);
    if (isAtEnd) range.value = range.max;
    showFakes();
    if (run.charts !== shown) { shown = run.charts; charts.innerHTML = run.charts; } // the server has escaped all text
    problems.replaceChildren(...run.problems.map((text) => make('li', {}, text)));
  };
  watch('network', load);
  watch('info', load);
  panel.addEventListener('shown', load);
}
