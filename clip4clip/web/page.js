// Show the query in the address bar, so that a search can be sent to somebody.
function showQueryInAddress(query) {
    const url = new URL(window.location);
    if (query) url.searchParams.set('q', query); else url.searchParams.delete('q');
    window.history.replaceState(null, '', url);
}

// When the page opens: copy the query of the address into the search box, and focus the box. Gradio could do both, by
// an output of the load event and by autofocus, but then the box would take the focus again and again from people who
// use the keyboard.
function openPage() {
    const query = new URL(window.location).searchParams.get('q');
    const box = document.querySelector('#query textarea');
    if (query && !box.value) {
        box.value = query;
        box.dispatchEvent(new Event('input'));
    }
    box.focus();
}

// Play one video at a time.
function onVideoPlay(video) {
    video.parentNode.classList.add('played');
    document.querySelectorAll('.hits video').forEach(other => other === video || other.pause());
}

function playVideo(video) {
    video.play();
    video.focus();
}
