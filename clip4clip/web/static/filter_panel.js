// The controls that filter: they write the filter language, which can also be typed.

import {ask} from './api.js';
import {readControl, writeControl} from './filters.js';
import {folderOf, isUrl} from './format.js';

const find = id => document.getElementById(id);
const NAMES = ['folder', 'length', 'since', 'until'];

/** The panel of filters, the button that opens it, and the chip that shows the filter while the panel is closed. */
export class FilterPanel {
    #panel = find('filters'); #text = find('filter'); #button = find('filters-button'); #hasFolders = false;

    /**
     * @param onFilter {(filter: string) => void} called with a new filter
     * @param onPerVideo {(count: string) => void} called with how many moments of each video are wanted
     */
    constructor(onFilter, onPerVideo) {
        this.#button.addEventListener('click', () => this.#toggle());
        this.#panel.addEventListener('submit', event => {
            event.preventDefault();
            onFilter(this.#text.value.trim());
        });
        for (const name of NAMES)
            find(name).addEventListener('change', event => {
                onFilter(writeControl(this.#text.value, name, event.target.value.trim()));
            });
        find('per-video').addEventListener('change', event => onPerVideo(event.target.value));
        for (const button of [find('clear-filter'), find('filter-chip')])
            button.addEventListener('click', () => onFilter(''));
    }

    /** Show a filter in the text and in the controls. */
    show(filter, perVideo) {
        this.#text.value = filter;
        for (const name of NAMES) find(name).value = readControl(filter, name);
        if (find('length').value !== readControl(filter, 'length')) find('length').value = '';
        find('per-video').value = perVideo;
        find('filter-chip-text').textContent = filter;
        find('filter-chip').ariaLabel = `Remove the filter ${filter}`;
        this.#showChip();
    }

    /** Offer the folders of some videos. */
    suggestFolders(videos) {
        const paths = videos.map(video => video.path).filter(path => !isUrl(path));
        const folders = [...new Set(paths.map(folderOf))].filter(Boolean).sort();
        find('folders').replaceChildren(...folders.map(folder => new Option(folder, folder)));
    }

    async #toggle() {
        this.#panel.hidden = !this.#panel.hidden;
        this.#button.setAttribute('aria-expanded', !this.#panel.hidden);
        this.#showChip();
        if (this.#panel.hidden || this.#hasFolders) return;
        this.#hasFolders = true;
        const list = await ask('/api/videos?k=100').catch(() => null);  // without suggestions, a folder can be typed
        if (list) this.suggestFolders(list.videos);
    }

    #showChip() {
        find('filter-chip').hidden = !this.#text.value || !this.#panel.hidden;
    }
}
