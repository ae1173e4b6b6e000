// The page: what is searched for, the address bar, and the answers.

import {ask, ProblemError, ServerAwayError} from './api.js';
import {FilterPanel} from './filter_panel.js';
import {ofVideo, joinFilter, splitFilter, writeControl} from './filters.js';
import {count, formatNumber, lastPart, timeOf} from './format.js';
import {makePicture, ResultList} from './results.js';
import {Viewer} from './viewer.js';

const PAGE = 24;  // results of one request: fills whole rows of two, three and four
const OTHERS = 8;  // moments of one video that the viewer shows
const EXAMPLES = 12;  // videos that the first visit offers
const UPLOAD_PAGE = 100;  // the same for a search by a file, which is sent with each request: as many as one answer has
const LAST_OFFSET = 1000;  // of a search: the server takes no larger one
const RETRY_DELAY = 2000;  // milliseconds
const SLOW = 300;  // milliseconds until a search shows that it is running

const EMPTY_INDEX = 'The index has no videos yet. Add some with “clip4clip index FOLDER”.';
const AWAY = 'The server does not answer. Is it running? This page tries again every few seconds.';

const find = id => document.getElementById(id);

// What is shown. A search is for a sentence (query), an uploaded file (upload: its id in `uploads`) or what is
// like a moment (like, at); without any of them, it lists the videos.
const START = {query: '', filter: '', order: 'score', perVideo: '1', like: '', at: '', upload: null, play: ''};
let state = {...START};
const uploads = new Map();  // files to search by, so that the back button finds them; they are gone after a reload
const load = `${Date.now()}-${Math.random()}`;  // begins the ids of this load's uploads, as the history outlives it
let moments = [], hasMore = false, offset = 0;
let search = new AbortController();
let retry = null;

const isSearch = () => Boolean(state.query || state.like || state.upload !== null);
const pageSize = () => state.upload === null ? PAGE : UPLOAD_PAGE;
const isHome = () => !isSearch() && !state.filter && state.order === 'score';

const results = new ResultList(find('results'), act);
const filters = new FilterPanel(filter => go({filter}), perVideo => go({perVideo}));
const viewer = new Viewer({
    close: leaveViewer,
    step: by => play(shown()[placeOf(viewer.moment) + by]),
    similar: moment => act('similar', moment),
    copy: moment => act('copy', moment),
    other: moment => play(moment),
    findOthers,
});

// The address bar

function readAddress() {
    const fields = new URL(location).searchParams, read = name => fields.get(name) ?? '';
    return {
        ...START,
        query: read('q').trim(),
        filter: read('filter'),
        order: ['name', 'date'].includes(read('order')) ? read('order') : 'score',
        perVideo: ['3', 'all'].includes(read('per_video')) ? read('per_video') : '1',
        like: read('like'),
        at: read('t'),
        play: read('play'),
        upload: uploads.has(history.state?.upload) ? history.state.upload : null,
    };
}

function address() {
    const fields = new URLSearchParams(), write = (name, value, none = '') => value !== none && fields.set(name, value);
    write('q', state.query);
    write('like', state.like);
    write('t', state.at);
    write('filter', state.filter);
    write('per_video', state.perVideo, '1');
    write('order', state.order, 'score');
    write('play', state.play);
    const query = String(fields);
    return query ? `/?${query}` : '/';
}

/** Change what is shown, as a step that the back button undoes. */
function go(change, {replace = false} = {}) {
    const before = state;
    state = {...state, ...change};
    if (JSON.stringify(state) === JSON.stringify(before)) {
        if (state.play) openViewer();
        else run();
        return;
    }
    const entry = {upload: state.upload, opened: Boolean(state.play && (!before.play || history.state?.opened))};
    if (replace || (before.play && state.play)) history.replaceState(entry, '', address());
    else history.pushState(entry, '', address());
    render(before);
}

addEventListener('popstate', () => {
    const before = state;
    state = readAddress();
    render(before);
});

/** Show the state: search again unless only the viewer or the order has changed. */
function render(before = null) {
    const {play: _, order: __, ...asked} = state, {play: ___, order: ____, ...askedBefore} = before ?? {};
    const isAsked = before && JSON.stringify(asked) === JSON.stringify(askedBefore)
        && (isSearch() || state.order === before.order);
    if (!isAsked) {
        showQuestion();
        run();
        return;
    }
    find('order').value = state.order;
    if (state.order !== before.order) results.show(shown());
    openViewer();
}

// The question

function showQuestion() {
    document.body.dataset.view = isHome() ? 'home' : 'results';
    document.title = state.query ? `${state.query} – clip4clip` : 'clip4clip';
    find('query').value = state.query;
    filters.show(state.filter, state.perVideo);
    const order = find('order');
    order.options[0].hidden = order.options[0].disabled = !isSearch();
    order.value = isSearch() || state.order !== 'score' ? state.order : 'date';
    const file = uploads.get(state.upload);
    const name = file?.name ?? (state.like && `like ${lastPart(state.like)}`);
    find('example').hidden = !name;
    find('query').placeholder = name ? '' : 'Describe what it shows';
    if (!name) return;
    find('example-name').textContent = name;
    find('example-picture').replaceChildren(examplePicture(file));
}

function examplePicture(file) {
    const isVideo = file && !file.type.startsWith('image/');
    const picture = document.createElement(isVideo ? 'video' : 'img');
    if (isVideo) picture.muted = true;
    else picture.alt = '';
    const id = encodeURIComponent(state.like);
    picture.src = file ? URL.createObjectURL(file) : `/thumbnails/${id}${state.at && `?t=${state.at}`}`;
    picture.addEventListener(isVideo ? 'loadeddata' : 'load', () => URL.revokeObjectURL(picture.src));
    picture.addEventListener('error', () => picture.remove());
    return picture;
}

// The search

/** Ask the server for results of the question. */
function request(extra, signal) {
    const fields = new URLSearchParams(extra);
    if (!fields.has('filter') && state.filter) fields.set('filter', state.filter);
    if (!fields.has('per_video')) fields.set('per_video', state.perVideo);
    if (state.upload !== null) {
        const body = new FormData();
        body.append('clip', uploads.get(state.upload));
        return ask(`/api/search?${fields}`, {method: 'POST', body, signal});
    }
    if (state.like) {
        if (state.at) fields.set('t', state.at);
        return ask(`/api/videos/${encodeURIComponent(state.like)}/similar?${fields}`, {signal});
    }
    if (state.query) {
        fields.set('q', state.query);
        return ask(`/api/search?${fields}`, {signal});
    }
    fields.delete('per_video');
    fields.set('order', state.order === 'name' ? 'name' : 'date');
    return ask(`/api/videos?${fields}`, {signal}).then(list => ({...list, moments: list.videos.map(toMoment)}));
}

/** Return a video of a list in the form of a result. */
function toMoment(video) {
    const strip = video.thumbnail?.replace('/thumbnails/', '/strips/').replace(/\?.*/, '') ?? null;
    return {...video, video: video.id, start: null, end: null, time: '', score: null, clip: null, copies: [], strip};
}

/** Search from the start, and show the answer unless a later search replaces it. */
async function run() {
    search.abort();
    const current = search = new AbortController();
    stopRetrying();
    if (isHome()) {
        showResults([], false);
        await showHome(current.signal);
        return;
    }
    find('home').hidden = true;
    const isSlow = setTimeout(() => {
        find('results').ariaBusy = 'true';
        say(state.upload === null ? 'Searching …' : `Sending ${uploads.get(state.upload).name} …`);
    }, SLOW);
    try {
        const answer = await request({k: pageSize()}, current.signal);
        if (current.signal.aborted) return;
        offset = answer.moments.length;
        showResults(answer.moments, answer.has_more);
        say(sentence(answer));
        hint(answer);
        openViewer();
    } catch (error) {
        if (!current.signal.aborted) showError(error);
    } finally {
        clearTimeout(isSlow);
        if (search === current) find('results').ariaBusy = 'false';
    }
}

async function showMore() {
    const button = find('more'), current = search;
    if (button.disabled) return;
    button.disabled = true;
    stopRetrying();
    try {
        const answer = await request({k: pageSize(), offset}, current.signal);
        if (current.signal.aborted) return;
        find('notice').hidden = true;
        offset += answer.moments.length;
        const place = moments.length;
        moments = [...moments, ...answer.moments];
        hasMore = answer.has_more;
        if (isSearch() && state.order !== 'score') {
            results.show(shown());
        } else {
            results.append(answer.moments);
            results.focus(place);
        }
        showMoreButton();
        say(sentence(answer));
    } catch (error) {
        if (!current.signal.aborted) showError(error, showMore);
    } finally {
        button.disabled = false;
    }
}

// The answer

/** Return the results in the order that the visitor wants. */
function shown() {
    if (!isSearch() || state.order === 'score') return moments;
    const compare = state.order === 'name'
        ? (one, two) => one.name.localeCompare(two.name, undefined, {numeric: true}) || one.start - two.start
        : (one, two) => (two.modified ?? 0) - (one.modified ?? 0) || one.start - two.start;
    return [...moments].sort(compare);
}

function showResults(found, more) {
    [moments, hasMore] = [found, more];
    find('results').classList.remove('stale');
    find('results').ariaBusy = 'false';
    find('legend').hidden = !isSearch() || !found.length;
    find('toolbar').hidden = isHome();
    find('notice').hidden = find('hint').hidden = true;
    if (isHome()) say('');
    results.show(shown());
    showMoreButton();
}

function showMoreButton() {
    find('more').hidden = !hasMore || (isSearch() && offset > LAST_OFFSET);
}

const say = text => { find('status').textContent = text; };

/** Return the sentence above the results. */
function sentence(answer) {
    if (!moments.length) return state.query ? `Nothing was found for “${state.query}”` : 'Nothing was found';
    const noun = moments.every(moment => moment.start === null) ? 'video' : 'moment';
    const part = isSearch() ? 'The best ' : 'The first ';
    const time = answer.milliseconds === undefined ? '' : `, in ${Math.max(1, Math.round(answer.milliseconds))} ms`;
    return (hasMore ? part : '') + count(moments.length, noun) + time;
}

/** Say what helps, if there is something to say about an answer. */
function hint(answer) {
    let text = '';
    if (!moments.length && !state.filter) text = state.like ? 'The index has no other videos.' : EMPTY_INDEX;
    else if (!moments.length) text = 'Nothing matches the filter. Change it, or remove it.';
    else if (answer.probably_here === false)
        text = 'Probably not here: nothing in the library matches this well. These are the nearest.';
    find('hint').textContent = text;
    find('hint').hidden = !text;
}

/** Say what is wrong, and try again by itself if the server is away. What a later try may mend leaves the results. */
function showError(error, again = run) {
    const isAway = error instanceof ServerAwayError, mayPass = isAway || error.status === 503;
    if (!isAway && !(error instanceof ProblemError)) throw error;
    if (!mayPass) showResults([], false);
    find('hint').hidden = true;
    if (mayPass && again === run) {  // the results are those of another question
        find('results').classList.add('stale');
        find('more').hidden = true;
    }
    find('toolbar').hidden = false;
    say('');
    const [text, ...pointer] = (isAway ? AWAY : error.message).split('\n');
    find('notice-text').textContent = text;
    find('notice-pointer').textContent = pointer.join('\n');  // shows where a filter is invalid
    find('notice').hidden = false;
    if (isAway) retryUntilBack(again);
    if (mayPass) {
        showNoticeButton('Try again', again);
    } else {
        showNoticeButton(state.filter ? 'Remove the filter' : '', () => go({filter: ''}));
    }
}

function showNoticeButton(text, action) {
    const button = find('notice-button');
    button.hidden = !text;
    button.textContent = text;
    button.onclick = () => action();
}

function retryUntilBack(again) {
    stopRetrying();
    retry = setInterval(async () => {
        const current = retry, isBack = await ask('/api/status').then(() => true, () => false);
        if (!isBack || current !== retry) return;
        stopRetrying();
        find('notice').hidden = true;
        toast('The server is back.');
        again();
    }, RETRY_DELAY);
}

function stopRetrying() {
    clearInterval(retry);
    retry = null;
}

// The first visit

async function showHome(signal) {
    try {
        const requests = ['/api/status', `/api/videos?order=date&k=${EXAMPLES}`].map(url => ask(url, {signal}));
        const [status, list] = await Promise.all(requests);
        if (signal.aborted) return;
        const parts = [count(status.videos, 'video')];
        if (status.vectors > status.videos) parts.push(count(status.vectors, 'moment'));
        if (status.model) parts.push(`model\u00a0${status.model}`);
        find('library').textContent = status.videos ? parts.join(' · ')
            : EMPTY_INDEX;
        find('browse').textContent = `See all ${formatNumber(status.videos)}`;
        find('examples').replaceChildren(...list.videos.map(makeExample));
        find('home').hidden = !list.videos.length;
        filters.suggestFolders(list.videos);
    } catch (error) {
        if (!signal.aborted) showError(error);
    }
}

function makeExample(video) {
    const item = document.createElement('li'), button = document.createElement('button');
    const name = document.createElement('span'), time = document.createElement('span');
    button.type = 'button';
    button.ariaLabel = `More like ${video.name}`;
    name.className = 'name';
    name.textContent = video.name;
    time.className = 'time';
    time.textContent = timeOf(toMoment(video));
    button.append(makePicture(toMoment(video)), time, name);
    button.addEventListener('click', () => act('similar', toMoment(video)));
    item.append(button);
    return item;
}

// What the buttons of a result do

function act(action, moment, time) {
    if (action === 'play') play(moment, time);
    if (action === 'copy') copy([moment.path, moment.time].filter(Boolean).join(' '), 'Copied');
    if (action === 'moments') {
        go({filter: writeControl(state.filter, 'video', moment.video), perVideo: 'all'});
        find('results').focus();
    }
    if (action === 'similar') {
        const at = moment.start === null ? '' : String((moment.start + moment.end) / 2);
        viewer.close();
        go({...START, filter: state.filter, like: moment.video, at});
        scrollTo({top: 0});
        find('results').focus({preventScroll: true});
    }
}

let startTime;  // at which the viewer starts, if not at the start of the moment

function play(moment, time) {
    if (!moment) return;
    startTime = time;
    candidates.set(moment.id, moment);
    go({play: moment.id});
}

const candidates = new Map();  // moments that are not among the results but that the viewer may play

/** Make the address that of the results, after the viewer has closed. */
function leaveViewer() {
    if (!state.play) return;
    if (history.state?.opened) history.back();
    else go({play: ''}, {replace: true});
}

const placeOf = moment => shown().findIndex(each => each.id === moment.id);

function openViewer() {
    const moment = moments.find(each => each.id === state.play) ?? candidates.get(state.play);
    if (!moment) {
        viewer.close();
        return;
    }
    const place = placeOf(moment);
    viewer.open(moment, startTime, {previous: place > 0, next: place >= 0 && place < moments.length - 1});
    startTime = undefined;
}

/**
 * Return the moments of the video of a moment: those that match the question best, or all if there is none. All also
 * for a file, which would have to be sent again.
 */
async function findOthers(moment, signal) {
    if (moment.start === null && isSearch()) return [];
    if (!isSearch() || state.upload !== null) {
        const {segments} = await ask(`/api/videos/${encodeURIComponent(moment.video)}`, {signal});
        return segments.map(segment => ({...moment, ...segment, score: null}));
    }
    const filter = joinFilter([...splitFilter(state.filter), ofVideo(moment.video)]);
    return (await request({k: OTHERS, per_video: 'all', filter}, signal)).moments;
}

async function copy(text, done) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {  // over HTTP, from another machine, there is no clipboard
        const field = document.createElement('textarea');
        field.value = text;
        (document.querySelector('dialog[open]') ?? document.body).append(field);
        field.select();
        document.execCommand('copy');
        field.remove();
    }
    toast(`${done}: ${text}`);
}

let toastTimer;

function toast(text) {
    const line = find('toast');
    (document.querySelector('dialog[open]') ?? document.body).append(line);  // a dialog hides what lies outside it
    line.textContent = text;
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { line.textContent = ''; }, 4000);
}

// Input

function searchByFile(file) {
    if (!file) return;
    const upload = `${load}-${uploads.size}`;
    uploads.set(upload, file);
    viewer.close();
    go({...START, filter: state.filter, upload});
}

function listen() {
    find('search').addEventListener('submit', event => {
        event.preventDefault();
        const query = find('query').value.trim();
        const hasTouch = matchMedia('(pointer: coarse)').matches;
        if (hasTouch) find('query').blur();  // else the phone's keyboard would cover the results
        if (!query && !find('example').hidden) return;
        go({...START, filter: state.filter, perVideo: state.perVideo, order: query ? state.order : 'score', query});
    });
    find('choose-clip').addEventListener('click', () => find('clip').click());
    find('clip').addEventListener('change', event => {
        searchByFile(event.target.files[0]);
        event.target.value = '';  // so that the same file can be chosen again
    });
    find('example').querySelector('button').addEventListener('click', () => {
        go({like: '', at: '', upload: null});
        find('query').focus();
    });
    find('order').addEventListener('change', event => go({order: event.target.value}));
    find('more').addEventListener('click', showMore);
    find('link-button').addEventListener('click', () => copy(location.origin + address(), 'Copied'));
    find('browse').addEventListener('click', event => {
        event.preventDefault();
        go({order: 'date'});
    });
    document.querySelector('.brand').addEventListener('click', event => {
        event.preventDefault();
        go({...START});
        find('query').focus();
    });
    addEventListener('keydown', event => {
        if (event.key !== '/' || viewer.isOpen || event.target.matches('input, textarea, select')) return;
        event.preventDefault();
        find('query').select();
    });
    listenForFiles();
}

/** Search by a file that is dropped on the page or pasted. */
function listenForFiles() {
    const hasFile = event => event.dataTransfer?.types.includes('Files');
    const show = isShown => { find('drop').hidden = !isShown; };
    addEventListener('dragover', event => {
        if (!hasFile(event)) return;
        event.preventDefault();
        show(true);
    });
    addEventListener('dragleave', event => { if (!event.relatedTarget) show(false); });
    addEventListener('drop', event => {
        if (!hasFile(event)) return;
        event.preventDefault();
        show(false);
        searchByFile(event.dataTransfer.files[0]);
    });
    addEventListener('paste', event => {
        if (!event.clipboardData.files.length) return;
        event.preventDefault();
        searchByFile(event.clipboardData.files[0]);
    });
}

listen();
state = readAddress();
render();
