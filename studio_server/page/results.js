// What the jobs of this page have made, so that it can be undone like everything else.

import { act, on } from './connection.js';
import { model, rememberMade, watch } from './model.js';

const OVER = ['done', 'stopped', 'failed'];
const started = new Map(); // number → what the server has said last, of jobs whose result is not remembered yet
let start = ''; // of the server; another one counts from 1 again

/** Whether a job has ended. */
export const isOver = (job) => OVER.includes(job.state);

/** Whether what a job has made was removed. */
export const isRemoved = ({ details: { made } }) => Boolean(made)
  && model.state.removed.some(({ folder, number }) => folder === made.folder && number === made.number);

/** Start a job; its result can be undone on this page. */
export async function startJob(action, content) {
  const job = await act(action, content);
  started.set(job.number, job);
  const known = model.state.jobs.find(({ number }) => number === job.number); // it may be over already
  if (known) settle(known);
  return job;
}

function settle(job) {
  if (!started.has(job.number) || !isOver(job)) return;
  started.delete(job.number);
  if (job.details.made) rememberMade(job.details.made.folder, job.details.made.number, true);
}

on('job', settle);
watch('shelf', () => {
  if (start !== model.state.start) started.clear();
  start = model.state.start;
  model.state.jobs.forEach(settle);
});
