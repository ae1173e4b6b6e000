// Times, dates, numbers and paths as people read them.

/** Return seconds as minutes:seconds, or hours:minutes:seconds from one hour on. */
export function formatTime(seconds) {
    const whole = Math.floor(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    const end = String(whole % 60).padStart(2, '0');
    return hours ? `${hours}:${String(minutes).padStart(2, '0')}:${end}` : `${minutes}:${end}`;
}

export function formatDate(seconds) {
    return new Date(seconds * 1000).toLocaleDateString(undefined, {year: 'numeric', month: 'short', day: 'numeric'});
}

export const formatNumber = number => number.toLocaleString('en-GB');

export const count = (number, noun) => `${formatNumber(number)} ${noun}${number === 1 ? '' : 's'}`;

/** Return a path without its last part: the folder of a file. */
export const folderOf = path => path.replace(/[/\\][^/\\]*$/, '');

export const lastPart = path => path.replace(/[/\\]+$/, '').replace(/^.*[/\\]/, '');

export const isUrl = path => /^https?:\/\//i.test(path);

/** Return the host of a URL; empty if it is malformed. */
export function hostOf(url) {
    try {
        return new URL(url).host;
    } catch {
        return '';
    }
}

/** Return the time range of a moment, or the length of a whole video; empty if neither is known. */
export function timeOf(moment) {
    return moment.time || (moment.duration === null ? '' : formatTime(moment.duration));
}
