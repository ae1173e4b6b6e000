// Makes the search work when the site's files are opened without a web server.
// The theme searches in a web worker, which browsers refuse to start for `file:` pages. An iframe does the same job.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.scope = frame.contentWindow
      this.scope.postMessage = data => setTimeout(() => this.dispatchEvent(new MessageEvent("message", { data })))
      const script = this.scope.document.createElement("script")
      this.loaded = new Promise(resolve => (script.onload = resolve))
      script.src = url
      this.scope.document.body.append(script)
    }

    postMessage(data) {
      this.loaded.then(() => this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data })))
    }
  }
}
