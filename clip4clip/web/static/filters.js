// The filter language, as far as the controls write and read it: docs/filters.md describes all of it.

const OPERATOR = /^(?:and\b|or\b|&&|\|\|)/i;

/** Return the conditions that a filter joins by `and`; the whole filter if it has an `or` outside parentheses. */
export function splitFilter(filter) {
    const {conditions, hasOr} = scan(filter);
    return hasOr ? [filter.trim()] : conditions.filter(Boolean);
}

/** Return a filter that requires all conditions. */
export function joinFilter(conditions) {
    const isAlone = conditions.length === 1;
    return conditions.map(condition => scan(condition).hasOr && !isAlone ? `(${condition})` : condition).join(' and ');
}

/** Return the parts of a filter between operators outside parentheses and strings, and whether one of these is `or`. */
function scan(filter) {
    const conditions = [];
    let start = 0, depth = 0, quote = '', hasOr = false;
    for (let i = 0; i < filter.length; i++) {
        const letter = filter[i];
        if (quote) {
            if (letter === '\\') i++;
            else if (letter === quote) quote = '';
        } else if (letter === '"' || letter === "'") {
            quote = letter;
        } else if ('([{'.includes(letter)) {
            depth++;
        } else if (')]}'.includes(letter)) {
            depth--;
        } else if (depth === 0 && !/[\w$]/.test(filter[i - 1] ?? ' ')) {
            const operator = OPERATOR.exec(filter.slice(i, i + 4))?.[0];
            if (!operator) continue;
            hasOr ||= /^(?:or|\|\|)$/i.test(operator);
            conditions.push(filter.slice(start, i).trim());
            i += operator.length - 1;
            start = i + 1;
        }
    }
    conditions.push(filter.slice(start).trim());
    return {conditions, hasOr};
}

export const quoteString = text => `"${text.replace(/[\\"]/g, '\\$&')}"`;

const unquoteString = text => text.slice(1, -1).replace(/\\(.)/g, '$1');

/** Return the condition for the videos in a folder and below it. */
export function inFolder(folder) {
    const separator = folder.includes('\\') && !folder.includes('/') ? '\\' : '/';
    const prefix = folder.endsWith(separator) ? folder : folder + separator;
    return `path like ${quoteString(prefix.replace(/[\\%_]/g, '\\$&') + '%')}`;
}

function readFolder(condition) {
    const string = /^path like ("(?:[^"\\]|\\.)*%")$/i.exec(condition)?.[1];
    const pattern = string && unquoteString(string).slice(0, -1);
    if (!pattern || /(?<!\\)(?:\\\\)*[%_]/.test(pattern)) return null;
    const folder = pattern.replace(/\\(.)/g, '$1');
    return /[/\\]$/.test(folder) ? folder.replace(/(?<=.)[/\\]$/, '') : null;
}

export const ofVideo = id => `video == ${quoteString(id)}`;

const LENGTH = /^(?:[\d.]+ *<=? *duration *<=? *[\d.]+|duration *[<>]=? *[\d.]+)$/;
const DATE = /^modified *([<>]=) *"(\d{4}-\d\d-\d\d)"$/;

/** What each control stands for: how its value is written as a condition, and read from one (null: another one). */
export const CONTROLS = {
    folder: {write: inFolder, read: readFolder},
    length: {write: value => value, read: condition => LENGTH.test(condition) ? condition : null},
    since: {
        write: date => `modified >= "${date}"`,
        read: condition => { const found = DATE.exec(condition); return found?.[1] === '>=' ? found[2] : null; },
    },
    until: {
        write: date => `modified <= "${date}"`,
        read: condition => { const found = DATE.exec(condition); return found?.[1] === '<=' ? found[2] : null; },
    },
    video: {
        write: ofVideo,
        read: condition => {
            const string = /^video == ("(?:[^"\\]|\\.)*")$/.exec(condition)?.[1];
            return string ? unquoteString(string) : null;
        },
    },
};

/** Return the value that a filter has for a control; empty if none. */
export function readControl(filter, name) {
    for (const condition of splitFilter(filter)) {
        const value = CONTROLS[name].read(condition);
        if (value !== null) return value;
    }
    return '';
}

/** Return a filter with another value for a control, at the place of the old one; empty to remove it. */
export function writeControl(filter, name, value) {
    const conditions = splitFilter(filter), written = value ? CONTROLS[name].write(value) : '';
    const place = conditions.findIndex(condition => CONTROLS[name].read(condition) !== null);
    if (place >= 0) conditions[place] = written;
    else conditions.push(written);
    return joinFilter(conditions.filter(Boolean));
}
