// Requests to the server's API, and the errors that they end with.

/** The server refused a request; the message is a sentence for the visitor. */
export class ProblemError extends Error {
    constructor(message, status) {
        super(message);
        this.status = status;
    }
}

/** The server cannot be reached. */
export class ServerAwayError extends Error {}

/** Return the JSON that the server answers with. An aborted request throws the browser's AbortError. */
export async function ask(url, options = {}) {
    const response = await send(url, options);
    const answer = await response.json().catch(() => null);
    if (response.ok && answer) return answer;
    if (!answer?.detail && [502, 503, 504].includes(response.status)) throw new ServerAwayError();  // a proxy's answer
    throw new ProblemError(answer?.detail || `The server answered with status ${response.status}.`, response.status);
}

/** Return the sentence that says why a file of the server cannot be fetched; null if it can. */
export async function whyNotServed(url) {
    const stop = new AbortController();
    try {
        const response = await send(url, {headers: {Range: 'bytes=0-0'}, signal: stop.signal});
        if (response.ok) return null;
        const answer = await response.json().catch(() => null);
        return answer?.detail || `The server answered with status ${response.status}.`;
    } catch (error) {
        return error instanceof ServerAwayError ? 'The server does not answer.' : error.message;
    } finally {
        stop.abort();
    }
}

async function send(url, options) {
    try {
        return await fetch(url, options);
    } catch (error) {
        if (error.name === 'AbortError') throw error;
        // A server that refuses a large clip may close the connection before its answer is read.
        if (options.body && await fetch('/api/status').then(response => response.ok, () => false))
            throw new ProblemError('The clip could not be sent. It may be too large.', 413);
        throw new ServerAwayError();
    }
}
