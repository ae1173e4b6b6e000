// The list of results: cards, their strips of frames, and the arrow keys.

import {folderOf, formatDate, hostOf, isUrl, lastPart, timeOf} from './format.js';

const STRIP_DELAY = 150;  // milliseconds that a card is pointed at before its strip is fetched

const FRAMES = 6;  // of a strip

const template = document.getElementById('result-template');

/** Return a picture of a moment, which is fetched once it is near the screen. */
export function makePicture(moment) {
    const picture = document.createElement('span');
    picture.className = 'picture';
    if (moment.thumbnail) {
        const image = document.createElement('img');
        image.loading = 'lazy';
        image.decoding = 'async';
        image.alt = '';
        image.addEventListener('load', () => {
            if (Math.abs(image.naturalWidth / image.naturalHeight - 16 / 9) > 0.1)  // lies on a blurred copy of itself
                picture.style.setProperty('--backdrop', `url(${CSS.escape(image.src)})`);
        });
        image.addEventListener('error', () => { picture.replaceChildren(makePlaceholder(moment)); });
        image.src = moment.thumbnail;
        picture.append(image);
    } else if (isUrl(moment.media)) {  // the server makes no pictures of it, but the browser can
        const video = document.createElement('video');
        Object.assign(video, {preload: 'metadata', muted: true, tabIndex: -1, ariaHidden: 'true'});
        video.addEventListener('error', () => { picture.replaceChildren(makePlaceholder(moment)); });
        video.src = moment.start === null ? moment.media : `${moment.media}#t=${moment.start}`;
        picture.append(video);
    } else {
        picture.append(makePlaceholder(moment));
    }
    return picture;
}

function makePlaceholder(moment) {
    const placeholder = document.createElement('span');
    placeholder.className = 'placeholder';
    placeholder.textContent = /\.(\w{1,5})$/.exec(moment.name)?.[1].toUpperCase() ?? 'video';
    return placeholder;
}

/** A list of moments as cards, each with one Tab stop. */
export class ResultList {
    #list; #moments = new WeakMap(); #act; #timer;

    /**
     * @param list {HTMLElement} element of the list
     * @param act {(action: string, moment: object, time?: number) => void} called when a button of a card is pressed;
     *     `time` is that of the frame of the strip that was clicked
     */
    constructor(list, act) {
        this.#list = list;
        this.#act = act;
        list.addEventListener('click', event => this.#onClick(event));
        list.addEventListener('keydown', event => this.#onKey(event));
        list.addEventListener('focusin', event => this.#onFocus(event));
        list.addEventListener('pointerover', event => {
            const card = event.target.closest('.card');
            if (card && event.pointerType !== 'touch') this.#showStripSoon(card);
        });
    }

    /** Replace all cards. */
    show(moments) {
        const cards = document.createDocumentFragment();
        for (const moment of moments) cards.append(this.#makeCard(moment));
        this.#list.replaceChildren(cards);
    }

    /** Add cards at the end. */
    append(moments) {
        this.#list.append(...moments.map(moment => this.#makeCard(moment)));
    }

    /** Focus the card at a place. */
    focus(place) {
        this.#list.children[place]?.querySelector('[data-action][tabindex="0"]')?.focus();
    }

    #makeCard(moment) {
        const item = template.content.cloneNode(true).firstElementChild;
        const find = selector => item.querySelector(selector);
        this.#moments.set(item, moment);
        const time = timeOf(moment), score = moment.score === null ? '' : moment.score.toFixed(2);
        const label = [moment.name, time, score && `similarity ${score}`].filter(Boolean).join(', ');
        find('.card').setAttribute('aria-label', label);
        find('.stage').setAttribute('aria-label', `Play ${moment.name}${moment.time ? `, ${moment.time}` : ''}`);
        find('.stage').setAttribute('aria-describedby', 'keys');
        find('.picture').replaceWith(makePicture(moment));
        find('.time').textContent = time;
        find('.time').hidden = !time;
        find('.name').textContent = moment.name;
        find('.name').title = moment.path;
        find('.score').textContent = score;
        const date = moment.modified === null ? '' : formatDate(moment.modified);
        const folder = isUrl(moment.path) ? hostOf(moment.path) : lastPart(folderOf(moment.path));
        find('.place').textContent = [folder, date].filter(Boolean).join(' · ');
        find('.place').title = moment.path;
        this.#markWhere(find('.where'), moment);
        this.#fillActions(item, moment);
        for (const button of item.querySelectorAll('[data-action]')) button.tabIndex = -1;
        find('.stage').tabIndex = 0;
        return item;
    }

    #markWhere(where, {start, end, duration}) {
        if (start === null || end === null || !duration) return;
        where.hidden = false;
        where.firstElementChild.style.left = `${100 * start / duration}%`;
        where.firstElementChild.style.width = `${100 * (end - start) / duration}%`;
    }

    #fillActions(item, moment) {
        const find = action => item.querySelector(`[data-action=${action}]`);
        find('moments').hidden = moment.start === null;
        const download = find('download');
        download.href = moment.clip ?? moment.media;
        if (!moment.clip) {
            download.title = download.ariaLabel = 'Download the video';
            download.download = moment.name;
        }
        if (isUrl(moment.media)) Object.assign(download, {target: '_blank', rel: 'noreferrer'});
        if (moment.copies.length) {
            find('copies').hidden = false;
            find('copies').textContent = moment.copies.length === 1 ? '+ 1 copy' : `+ ${moment.copies.length} copies`;
        }
    }

    #onClick(event) {
        const button = event.target.closest('[data-action]'), item = event.target.closest('.result');
        if (!button || !item) return;
        const moment = this.#moments.get(item), action = button.dataset.action;
        if (action === 'copies') this.#toggleCopies(item, button, moment);
        else if (action !== 'download') this.#act(action, moment, frameTime(event, moment));
    }

    #toggleCopies(item, button, moment) {
        const list = item.querySelector('.copies'), isOpen = list.hidden;
        button.setAttribute('aria-expanded', isOpen);
        list.hidden = !isOpen;
        list.replaceChildren(...moment.copies.map(copy => {
            const line = document.createElement('li');
            line.textContent = [copy.path || copy.name, copy.time].filter(Boolean).join('  ');
            return line;
        }));
    }

    #onFocus(event) {
        const button = event.target.closest('[data-action]'), card = event.target.closest('.card');
        if (!button) return;
        for (const other of card.querySelectorAll('[data-action]')) other.tabIndex = other === button ? 0 : -1;
        if (button.matches(':focus-visible')) this.#showStripSoon(card);
    }

    #onKey(event) {
        const item = event.target.closest('.result');
        if (!item || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
        const buttons = [...item.querySelectorAll('[data-action]')].filter(button => !button.hidden);
        const place = buttons.indexOf(event.target.closest('[data-action]'));
        const target = {
            ArrowRight: () => buttons[place + 1],
            ArrowLeft: () => buttons[place - 1],
            Home: () => buttons[0],
            End: () => buttons.at(-1),
            ArrowDown: () => item.nextElementSibling?.querySelector('.stage'),
            ArrowUp: () => item.previousElementSibling?.querySelector('.stage'),
        }[event.key];
        if (!target) return;
        event.preventDefault();
        target()?.focus();
    }

    #showStripSoon(card) {
        clearTimeout(this.#timer);
        const strip = card.querySelector('.strip'), moment = this.#moments.get(card.parentElement);
        if (!moment.strip || strip.firstElementChild) return;
        this.#timer = setTimeout(() => {
            if (!card.matches(':hover, :focus-within')) return;
            const image = new Image();
            image.addEventListener('load', () => fillStrip(strip, image));
            image.src = moment.strip;
        }, STRIP_DELAY);
    }
}

/** Show a picture of six frames side by side: in two rows of three, unless they are nearly square or upright. */
function fillStrip(strip, image) {
    const isWide = image.naturalWidth / FRAMES / image.naturalHeight > 1.4;
    strip.classList.toggle('two-rows', isWide);
    const copies = isWide ? [image, image.cloneNode()] : [image];
    strip.replaceChildren(...copies.map(copy => {
        const row = document.createElement('span');
        row.append(copy);
        return row;
    }));
}

/** Return the time of the frame of a strip that was clicked, in seconds; undefined if the click was elsewhere. */
function frameTime(event, moment) {
    const image = event.target.closest?.('.strip img');
    if (!image) return undefined;
    const start = moment.start ?? 0, end = moment.end ?? moment.duration ?? 0;
    const frame = Math.min(FRAMES - 1, Math.floor(FRAMES * event.offsetX / image.clientWidth));
    return start + (end - start) * (frame + 0.5) / FRAMES;
}
