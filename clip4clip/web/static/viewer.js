// The viewer: plays a moment, and shows where it is in its video.

import {whyNotServed} from './api.js';
import {formatDate, formatTime, isUrl, timeOf} from './format.js';
import {makePicture} from './results.js';

const find = id => document.getElementById(id);

/** The dialog that plays a moment. */
export class Viewer {
    #dialog = find('viewer'); #player = find('player'); #position = find('position');
    #moment; #others = []; #stopAt = null; #loading; #on;

    /**
     * @param on {object} functions to call: `close()` after it has closed, `step(-1 or 1)` for the previous or next
     *     result, `similar(moment)`, `copy(moment)`, `other(moment)` for another moment of the video, and
     *     `findOthers(moment, signal)`, which returns a promise of the moments of its video
     */
    constructor(on) {
        this.#on = on;
        this.#dialog.addEventListener('close', () => {
            this.#stop();
            on.close();
        });
        this.#dialog.addEventListener('click', event => { if (event.target === this.#dialog) this.close(); });
        find('viewer-close').addEventListener('click', () => this.close());
        find('viewer-previous').addEventListener('click', () => on.step(-1));
        find('viewer-next').addEventListener('click', () => on.step(1));
        find('viewer-similar').addEventListener('click', () => on.similar(this.#moment));
        find('viewer-copy').addEventListener('click', () => on.copy(this.#moment));
        find('viewer-replay').addEventListener('click', () => this.#play(this.#moment.start ?? 0));
        this.#listenToPlayer();
    }

    get isOpen() {
        return this.#dialog.open;
    }

    get moment() {
        return this.#moment;
    }

    /**
     * Play a moment.
     *
     * @param time {number} seconds to start at; undefined for the start of the moment
     * @param steps {{previous: boolean, next: boolean}} which neighbours the moment has among the results
     */
    open(moment, time, steps) {
        const isSameVideo = this.isOpen && this.#moment.video === moment.video;
        this.#moment = moment;
        find('viewer-previous').disabled = !steps.previous;
        find('viewer-next').disabled = !steps.next;
        this.#describe();
        if (!this.isOpen) this.#dialog.showModal();
        if (isSameVideo && !this.#player.hidden) {
            this.#play(time ?? moment.start ?? 0);
        } else {
            this.#load(time ?? moment.start ?? 0);
            this.#others = [];
        }
        this.#drawMarks();
        if (!isSameVideo) this.#showOthers();
        else this.#markCurrent();
    }

    close() {
        if (this.isOpen) this.#dialog.close();
    }

    #describe() {
        const moment = this.#moment, score = moment.score === null ? '' : `similarity ${moment.score.toFixed(2)}`;
        const length = moment.time && moment.duration ? `of ${formatTime(moment.duration)}` : '';
        const date = moment.modified === null ? '' : formatDate(moment.modified);
        find('viewer-name').textContent = moment.name;
        const facts = [`${timeOf(moment)} ${length}`.trim(), score, date].filter(Boolean);
        find('viewer-facts').replaceChildren(...facts.map(text => {
            const fact = document.createElement('span');
            fact.textContent = text;
            return fact;
        }));
        find('viewer-path').textContent = moment.path;
        find('viewer-replay').lastChild.textContent = moment.start === null ? 'Play from the start' : 'Play the moment';
        find('viewer-download').querySelector('span').textContent = moment.clip ? 'Download the clip' : 'Download';
        for (const link of this.#dialog.querySelectorAll('a[download]')) {
            link.href = moment.clip ?? moment.media;
            link.download = moment.clip ? '' : moment.name;  // the server names a clip
            link.target = isUrl(moment.media) ? '_blank' : '';
            link.rel = 'noreferrer';
        }
    }

    #load(time) {
        this.#showPlayer(true);
        this.#setDuration(this.#moment.duration);
        const {media} = this.#moment;
        this.#player.src = media.includes('#') ? media : `${media}#t=${time}`;  // a media fragment: starts there
        this.#play(time);
    }

    #play(time) {
        const {end} = this.#moment;
        this.#stopAt = end !== null && time < end ? end : null;
        if (this.#player.readyState > 0) this.#player.currentTime = time;
        this.#player.play().catch(() => {});  // a browser may want a click first; the controls are there
    }

    #stop() {
        this.#loading?.abort();
        this.#player.pause();
        this.#player.removeAttribute('src');
        this.#player.load();  // closes the connection
    }

    #setDuration(seconds) {
        this.#position.max = seconds || 1;
        this.#position.disabled = !seconds;
    }

    #listenToPlayer() {
        const player = this.#player, position = this.#position;
        player.addEventListener('loadedmetadata', () => {
            if (Number.isFinite(player.duration)) this.#setDuration(player.duration);
            this.#drawMarks();
        });
        player.addEventListener('loadeddata', () => {
            if (player.videoWidth === 0) this.#explainError();  // the browser can play only the sound
        });
        player.addEventListener('error', () => { if (player.hasAttribute('src')) this.#explainError(); });
        player.addEventListener('timeupdate', () => {
            position.value = player.currentTime;
            position.ariaValueText = formatTime(player.currentTime);
            if (this.#stopAt !== null && player.currentTime >= this.#stopAt) {
                this.#stopAt = null;
                player.pause();
            }
        });
        player.addEventListener('seeking', () => {  // to a place outside the moment: play on from there
            const {start, end} = this.#moment;
            if (player.currentTime < start - 1 || player.currentTime > end) this.#stopAt = null;
        });
        position.addEventListener('input', () => { player.currentTime = position.value; });
    }

    async #explainError() {
        const moment = this.#moment, problem = find('viewer-problem');
        const [sentence, strip, download] = problem.children;
        const reason = isUrl(moment.media) ? null : await whyNotServed(moment.media);
        if (moment !== this.#moment || !this.isOpen) return;
        const kind = /\.(\w{1,5})$/.exec(moment.name)?.[1].toUpperCase() ?? '';
        sentence.textContent = reason ?? (isUrl(moment.media)
            ? 'The browser cannot play this video, or its server does not answer.'
            : `This browser cannot play this ${kind} video. Download it to play it in another program.`);
        strip.hidden = reason !== null || !moment.strip;
        if (!strip.hidden) strip.src = moment.strip;
        download.hidden = reason !== null;
        this.#showPlayer(false);
    }

    /** Show the player, or what is wrong with the video. */
    #showPlayer(isPlayable) {
        find('viewer-problem').hidden = isPlayable;
        this.#player.hidden = find('timeline').hidden = find('viewer-replay').hidden = !isPlayable;
    }

    async #showOthers() {
        const moment = this.#moment, section = find('others');
        this.#loading?.abort();
        this.#loading = new AbortController();
        section.hidden = true;
        try {
            const found = await this.#on.findOthers(moment, this.#loading.signal);
            if (moment.video !== this.#moment.video || !this.isOpen) return;
            this.#others = found.filter(other => other.start !== null).sort((one, two) => one.start - two.start);
        } catch {
            return;  // the results show what is wrong with the server
        }
        section.hidden = this.#others.filter(other => other.id !== this.#moment.id).length === 0;
        find('other-moments').replaceChildren(...this.#others.map(other => this.#makeOther(other)));
        this.#markCurrent();
        this.#drawMarks();
    }

    #makeOther(other) {
        const item = document.createElement('li'), button = document.createElement('button');
        const time = document.createElement('span'), score = document.createElement('span');
        button.type = 'button';
        button.dataset.id = other.id;
        time.textContent = other.time;
        score.className = 'score';
        score.textContent = other.score === null ? '' : other.score.toFixed(2);
        button.append(makePicture(other), time, score);
        button.addEventListener('click', () => this.#on.other(other));
        item.append(button);
        return item;
    }

    #markCurrent() {
        for (const button of find('other-moments').querySelectorAll('button'))
            button.ariaCurrent = String(button.dataset.id === this.#moment.id);
    }

    #drawMarks() {
        const duration = Number(this.#position.max);
        const marks = [...this.#others.filter(other => other.id !== this.#moment.id), this.#moment];
        find('marks').replaceChildren(...marks.filter(moment => moment.start !== null).map(moment => {
            const mark = document.createElement('span');
            mark.className = moment === this.#moment ? 'mark current' : 'mark';
            mark.style.left = `${100 * moment.start / duration}%`;
            mark.style.width = `${100 * (moment.end - moment.start) / duration}%`;
            return mark;
        }));
    }
}
